package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

type electorConnection struct {
	o      *options
	client *kubernetes.Clientset
}

func connectElector(o *options) (connection, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = float32(o.qps)
	config.Burst = o.burst
	// A dialer of its own: otherwise all clients of a process share connections.
	config.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &electorConnection{o: o, client: client}, nil
}

// The API server counts.
func (c *electorConnection) requests() int64 { return -1 }

func (c *electorConnection) contender(lock string, index int) contender {
	return &elector{connection: c, lock: lock, identity: fmt.Sprintf("%d-%d", os.Getpid(), index)}
}

// A lock as one gets it from a leader election: whoever leads holds it, and an
// elector is run anew for each time.
type elector struct {
	connection     *electorConnection
	lock, identity string
	stop           context.CancelFunc
	stopped        chan struct{}
	leads          atomic.Bool
}

func (e *elector) acquire(ctx context.Context) error {
	o := e.connection.o
	started := make(chan struct{})
	running, stop := context.WithCancel(ctx)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: o.namespace, Name: e.lock},
			Client:     e.connection.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity},
		},
		LeaseDuration:   o.lease,
		RenewDeadline:   o.renew,
		RetryPeriod:     o.retry,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { e.leads.Store(true); close(started) },
			OnStoppedLeading: func() { e.leads.Store(false) },
		},
	})
	if err != nil {
		stop()
		return err
	}
	stopped := make(chan struct{})
	e.stop, e.stopped = stop, stopped
	go func() {
		defer close(stopped)
		elector.Run(running)
	}()
	select {
	case <-started:
		return nil
	case <-stopped:
		return errors.New("the elector stopped")
	}
}

func (e *elector) release(context.Context) error {
	e.stop()
	<-e.stopped
	return nil
}

func (e *elector) holds() bool { return e.leads.Load() }
