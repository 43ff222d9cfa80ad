package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

type etcdConnection struct {
	session *concurrency.Session
	sent    atomic.Int64
}

func connectEtcd(ctx context.Context, o *options) (connection, error) {
	c := &etcdConnection{}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{o.endpoint},
		DialTimeout: 10 * time.Second,
		Context:     ctx,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(c.unary),
			grpc.WithChainStreamInterceptor(c.stream),
		},
	})
	if err != nil {
		return nil, err
	}
	c.session, err = concurrency.NewSession(client, concurrency.WithTTL(int(o.lease.Seconds())))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Every message to etcd is counted: a call, or what is sent on a stream, as
// etcd's own grpc_server_msg_received_total does, which cannot tell this client
// from the API server.
func (c *etcdConnection) requests() int64 { return c.sent.Load() }

func (c *etcdConnection) unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	c.sent.Add(1)
	return invoke(ctx, method, request, reply, conn, options...)
}

func (c *etcdConnection) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, options...)
	return &countedStream{stream, &c.sent}, err
}

type countedStream struct {
	grpc.ClientStream
	sent *atomic.Int64
}

func (s *countedStream) SendMsg(message any) error {
	s.sent.Add(1)
	return s.ClientStream.SendMsg(message)
}

func (c *etcdConnection) contender(lock string, index int) contender {
	return &mutex{session: c.session, mutex: concurrency.NewMutex(c.session, "/bench/"+lock)}
}

type mutex struct {
	session *concurrency.Session
	mutex   *concurrency.Mutex
	held    atomic.Bool
}

func (m *mutex) acquire(ctx context.Context) error {
	if err := m.mutex.Lock(ctx); err != nil {
		return err
	}
	m.held.Store(true)
	return nil
}

func (m *mutex) release(ctx context.Context) error {
	if !m.held.Swap(false) {
		return fmt.Errorf("not held")
	}
	return m.mutex.Unlock(ctx)
}

func (m *mutex) holds() bool {
	select {
	case <-m.session.Done():
		return false
	default:
		return m.held.Load()
	}
}
