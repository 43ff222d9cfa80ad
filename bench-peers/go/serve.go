package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What a peer offers. One connection serves one contender, or all of a process
// that are said to share it.
type connection interface {
	contender(lock string, index int) contender
	// requests says how many were sent, or -1 where the server is asked.
	requests() int64
}

type contender interface {
	acquire(context.Context) error
	release(context.Context) error
	// holds says whether it believes to hold the lock still.
	holds() bool
}

type server struct {
	ctx         context.Context
	connect     func(context.Context) (connection, error)
	out         sync.Mutex
	connections []connection
	contenders  []contender
	// How often each has acquired, how many hold at this moment, and how often
	// somebody acquired while another held.
	acquired          []atomic.Int64
	holding, overlaps atomic.Int64
	over              atomic.Bool
	loops             sync.WaitGroup
}

func serve(ctx context.Context, connect func(context.Context) (connection, error)) error {
	s := &server{ctx: ctx, connect: connect}
	s.say("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		if words[0] == "quit" {
			return nil
		}
		if err := s.obey(words[0], words[1:]); err != nil {
			s.say("error %s: %s", words[0], strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	return lines.Err()
}

func (s *server) obey(verb string, words []string) error {
	switch verb {
	case "open":
		if len(words) != 3 {
			return errors.New("open <lock> <contenders> own|shared")
		}
		count, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		return s.open(words[0], count, words[2] == "shared")
	case "mark":
		s.mark()
		return nil
	case "stop":
		s.stop()
		return nil
	case "held":
		held := 0
		for _, one := range s.contenders {
			if one.holds() {
				held++
			}
		}
		s.say("held %d", held)
		return nil
	}
	numbers := make([]int, len(words))
	for i, word := range words {
		number, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		numbers[i] = number
	}
	switch {
	case verb == "acquire" && len(numbers) == 1:
		go s.acquire(numbers[0])
	case verb == "release" && len(numbers) == 1:
		go s.release(numbers[0])
	case verb == "cycle" && len(numbers) == 2:
		return s.cycle(numbers[0], time.Duration(numbers[1])*time.Millisecond)
	case verb == "start" && len(numbers) == 1:
		return s.start(time.Duration(numbers[0]) * time.Millisecond)
	case verb == "hold" && len(numbers) == 3:
		return s.hold(numbers[0], numbers[1], time.Duration(numbers[2])*time.Millisecond)
	default:
		return errors.New("not understood")
	}
	return nil
}

func (s *server) open(lock string, count int, shared bool) error {
	s.connections, s.contenders = nil, nil
	for i := range count {
		if i == 0 || !shared {
			c, err := s.connect(s.ctx)
			if err != nil {
				return err
			}
			s.connections = append(s.connections, c)
		}
		s.contenders = append(s.contenders, s.connections[len(s.connections)-1].contender(lock, i))
	}
	s.acquired = make([]atomic.Int64, count)
	s.say("opened")
	return nil
}

func (s *server) acquire(i int) {
	if err := s.contenders[i].acquire(s.ctx); err != nil {
		s.say("failed %d %s", i, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	s.say("acquired %d %d", i, now())
}

func (s *server) release(i int) {
	begun := now()
	if err := s.contenders[i].release(s.ctx); err != nil {
		s.say("failed %d %s", i, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	s.say("released %d %d %d", i, begun, now())
}

// cycle acquires and releases with the first contender, so often or for so long.
func (s *server) cycle(rounds int, limit time.Duration) error {
	before, end := s.requests(), now()+limit.Nanoseconds()
	var took strings.Builder
	for round := 0; round < rounds && now() < end; round++ {
		begun := now()
		if err := s.contenders[0].acquire(s.ctx); err != nil {
			return err
		}
		if err := s.contenders[0].release(s.ctx); err != nil {
			return err
		}
		fmt.Fprintf(&took, " %d", now()-begun)
	}
	s.say("cycled %d%s", s.since(before), took.String())
	return nil
}

// start lets all contend without a pause, and hold the lock for so long in each turn.
func (s *server) start(held time.Duration) error {
	s.over.Store(false)
	for i := range s.contenders {
		s.loops.Add(1)
		go func() {
			defer s.loops.Done()
			for !s.over.Load() {
				if err := s.contenders[i].acquire(s.ctx); err != nil {
					continue
				}
				if s.holding.Add(1) > 1 {
					s.overlaps.Add(1)
				}
				s.acquired[i].Add(1)
				if held > 0 {
					// What holds for no time is hardly ever met by another.
					time.Sleep(held)
				}
				s.holding.Add(-1)
				_ = s.contenders[i].release(s.ctx)
			}
		}()
	}
	s.say("started")
	return nil
}

func (s *server) mark() {
	var counts strings.Builder
	for i := range s.acquired {
		fmt.Fprintf(&counts, " %d", s.acquired[i].Load())
	}
	s.say("marked %d %d %d%s", now(), s.requests(), s.overlaps.Load(), counts.String())
}

// stop lets nobody begin again, and waits a little for those who are at it.
func (s *server) stop() {
	s.over.Store(true)
	ended := make(chan struct{})
	go func() { s.loops.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Second):
	}
	s.say("stopped")
}

// hold acquires many locks at once over one connection, as many as it can in the time.
func (s *server) hold(count, atOnce int, limit time.Duration) error {
	c, err := s.connect(s.ctx)
	if err != nil {
		return err
	}
	s.connections, s.contenders = []connection{c}, nil
	for i := range count {
		s.contenders = append(s.contenders, c.contender(fmt.Sprintf("held-%d", i), i))
	}
	var next, done, failed atomic.Int64
	begun, over := now(), make(chan struct{})
	var workers sync.WaitGroup
	for range atOnce {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := next.Add(1) - 1; i < int64(count) && now() < begun+limit.Nanoseconds(); i = next.Add(1) - 1 {
				if s.contenders[i].acquire(s.ctx) == nil {
					done.Add(1)
				} else {
					failed.Add(1)
				}
			}
		}()
	}
	go func() { workers.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(limit + 5*time.Second):
	}
	s.say("holding %d %d %d", done.Load(), failed.Load(), now()-begun)
	return nil
}

func (s *server) requests() int64 {
	sum := int64(0)
	for _, c := range s.connections {
		sent := c.requests()
		if sent < 0 {
			return -1
		}
		sum += sent
	}
	return sum
}

func (s *server) since(before int64) int64 {
	if before < 0 {
		return -1
	}
	return s.requests() - before
}

func (s *server) say(format string, values ...any) {
	s.out.Lock()
	defer s.out.Unlock()
	fmt.Printf(format+"\n", values...)
}

// now is CLOCK_MONOTONIC in nanoseconds, the same in all processes of a machine.
func now() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		panic(err)
	}
	return at.Nano()
}
