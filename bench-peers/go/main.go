// A process that contends for locks as a benchmark tells it to, by client-go's
// leader election or by etcd's mutex. What it understands and answers is
// described in ../README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/klog/v2"
)

type options struct {
	peer, kubeconfig, namespace, endpoint string
	lease, renew, retry                   time.Duration
	qps                                   float64
	burst                                 int
}

func main() {
	var o options
	flag.StringVar(&o.peer, "peer", "", "client-go or etcd")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "client-go: whom to talk to")
	flag.StringVar(&o.namespace, "namespace", "", "client-go: where the Leases are")
	flag.StringVar(&o.endpoint, "endpoint", "", "etcd: whom to talk to")
	flag.DurationVar(&o.lease, "lease", 15*time.Second, "LeaseDuration, or the session's TTL")
	flag.DurationVar(&o.renew, "renew", 10*time.Second, "client-go: RenewDeadline")
	flag.DurationVar(&o.retry, "retry", 2*time.Second, "client-go: RetryPeriod")
	flag.Float64Var(&o.qps, "qps", 0, "client-go: requests a second of one client, 0 for its default, negative for no limit")
	flag.IntVar(&o.burst, "burst", 0, "client-go: how many at once above that")
	klog.InitFlags(nil)
	flag.Set("logtostderr", "false")
	flag.Set("alsologtostderr", "false")
	flag.Set("stderrthreshold", "FATAL")
	flag.Parse()
	klog.SetOutput(discard{})
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(o *options) error {
	var connect func(context.Context) (connection, error)
	switch o.peer {
	case "client-go":
		connect = func(context.Context) (connection, error) { return connectElector(o) }
	case "etcd":
		connect = func(ctx context.Context) (connection, error) { return connectEtcd(ctx, o) }
	default:
		return fmt.Errorf("unknown peer %q", o.peer)
	}
	return serve(context.Background(), connect)
}

// What klog says is not of interest, and must not cost a system call.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
