// A process that contends for a Lease by client-go's leader election.
//
// It says on standard output what it believes, a word and the time on a line.
// The time is CLOCK_BOOTTIME in nanoseconds, the clock of Leasehold's guards.
//
//	leading <ns> <renewed>  it has just been told that it leads
//	still <ns> <renewed>    it led then: the time was taken before its context was asked
//	stopped <ns>            it does not lead any more; it was over before this time
//	resting <ns>            it will not contend for a while
//
// <renewed> is when the last write was sent that is known to have made or kept
// it the holder. How long others leave it in peace counts from then.
//
// SIGUSR1 and SIGTERM make it step down, rest, and contend again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

type options struct {
	kubeconfig, namespace, name, identity    string
	leaseDuration, renewDeadline, retryEvery time.Duration
	releaseOnCancel                          bool
	tick, rest                               time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "whom to talk to")
	flag.StringVar(&o.namespace, "namespace", "default", "the Lease's namespace")
	flag.StringVar(&o.name, "name", "", "the Lease's name")
	flag.StringVar(&o.identity, "identity", "", "this process on the Lease")
	flag.DurationVar(&o.leaseDuration, "lease-duration", 4*time.Second, "how long others wait")
	flag.DurationVar(&o.renewDeadline, "renew-deadline", 2500*time.Millisecond, "how long a leader tries to renew")
	flag.DurationVar(&o.retryEvery, "retry-period", 500*time.Millisecond, "the pause between two attempts")
	flag.BoolVar(&o.releaseOnCancel, "release-on-cancel", true, "free the Lease when stepping down")
	flag.DurationVar(&o.tick, "tick", 10*time.Millisecond, "how often a leader says that it still leads")
	flag.DurationVar(&o.rest, "rest", 0, "the pause after stepping down when asked to")
	klog.InitFlags(nil)
	flag.Parse()
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(o *options) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1, syscall.SIGTERM)
	for {
		lock := &timedLock{Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: o.namespace, Name: o.name},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.identity},
		}}
		turn := &turn{lock: lock}
		ctx, cancel := context.WithCancel(context.Background())
		over, relayed := make(chan struct{}), make(chan bool)
		go func() {
			select {
			case <-asked:
				turn.stepDown(cancel)
				relayed <- true
			case <-over:
				relayed <- false
			}
		}()
		// A new lock each time: as after a restart it knows nothing.
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock:            lock,
			LeaseDuration:   o.leaseDuration,
			RenewDeadline:   o.renewDeadline,
			RetryPeriod:     o.retryEvery,
			ReleaseOnCancel: o.releaseOnCancel,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) { turn.lead(ctx, o.tick) },
				OnStoppedLeading: turn.stopped,
			},
		})
		close(over)
		cancel()
		if <-relayed {
			say("resting", now())
			time.Sleep(o.rest)
		}
	}
}

// A lock that knows when what it wrote last was sent.
type timedLock struct {
	resourcelock.Interface
	renewed atomic.Int64
}

func (l *timedLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.timed(record, func() error { return l.Interface.Create(ctx, record) })
}

func (l *timedLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.timed(record, func() error { return l.Interface.Update(ctx, record) })
}

func (l *timedLock) timed(record resourcelock.LeaderElectionRecord, write func() error) error {
	sent := now()
	err := write()
	if err == nil && record.HolderIdentity == l.Identity() {
		l.renewed.Store(sent)
	}
	return err
}

// One Run of the elector. The lock makes lines come in the order of what they
// tell: none of a turn comes after its "stopped".
type turn struct {
	sync.Mutex
	lock *timedLock
	ctx  context.Context // nil until it leads
	end  bool
}

func (t *turn) lead(ctx context.Context, tick time.Duration) {
	word := "leading"
	for t.believe(ctx, word) {
		word = "still"
		time.Sleep(tick)
	}
}

func (t *turn) believe(ctx context.Context, word string) bool {
	t.Lock()
	defer t.Unlock()
	renewed := t.lock.renewed.Load()
	at := now()
	if t.end || ctx.Err() != nil {
		return false
	}
	t.ctx = ctx
	say(word, at, renewed)
	return true
}

func (t *turn) stepDown(cancel context.CancelFunc) {
	t.Lock()
	defer t.Unlock()
	renewed := t.lock.renewed.Load()
	at := now()
	if t.ctx != nil && !t.end && t.ctx.Err() == nil {
		say("still", at, renewed)
	}
	cancel()
}

func (t *turn) stopped() {
	t.Lock()
	defer t.Unlock()
	if t.ctx != nil {
		say("stopped", now())
	}
	t.end = true
}

func say(word string, times ...int64) {
	for _, at := range times {
		word = fmt.Sprintf("%s %d", word, at)
	}
	// One write a line, unbuffered.
	fmt.Println(word)
}

func now() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		panic(err)
	}
	return at.Nano()
}
