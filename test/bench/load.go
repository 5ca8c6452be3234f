package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// subject is one thing that is measured: requests to a proxy.
type subject struct {
	name     string
	proxy    *proxy
	parallel int      // how many requests come at a time, each on its connection
	requests [][]byte // in rotation
	conns    []*conn  // they stay open
	next     atomic.Int64
}

// connections is how many requests come at a time, where nothing else is said.
const connections = 16

// newSubject prepares the requests of a subject: one for each of the headers
// given, which may be empty, else lines that end with \r\n.
func newSubject(name string, p *proxy, path string, headers []string) *subject {
	s := &subject{name: name, proxy: p, parallel: connections}
	for _, header := range headers {
		s.requests = append(s.requests, []byte("GET "+path+" HTTP/1.1\r\nHost: "+p.addr+"\r\nUser-Agent: bench\r\nAccept: */*\r\n"+header+"\r\n"))
	}
	return s
}

// asSessions are the headers of requests with these sessions.
func asSessions(sessions []session) []string {
	headers := make([]string, len(sessions))
	for i, s := range sessions {
		headers[i] = "Cookie: " + s.cookie + "\r\n"
	}
	return headers
}

// conn is a connection that stays open.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// connect opens connections until there are n.
func (s *subject) connect(n int) error {
	for len(s.conns) < n {
		c, err := net.Dial("tcp", s.proxy.addr)
		if err != nil {
			return err
		}
		s.conns = append(s.conns, &conn{c, bufio.NewReaderSize(c, 16<<10)})
	}
	return nil
}

func (s *subject) disconnect() {
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// request is the next in the rotation.
func (s *subject) request() []byte {
	if len(s.requests) == 1 {
		return s.requests[0]
	}
	return s.requests[int(s.next.Add(1)-1)%len(s.requests)]
}

// exchange sends one request and reads the answer, which must be 200.
func (c *conn) exchange(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("the proxy answered %q", line)
	}
	length := -1
	for {
		line, err = c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length != len(body) {
		return fmt.Errorf("the answer has %d bytes, want %d", length, len(body))
	}
	_, err = c.r.Discard(length)
	return err
}

// sample is what one slice found.
type sample struct {
	requests int
	elapsed  time.Duration
	cpu      time.Duration // of the proxy
}

// perRequest is the CPU time of the proxy for one request, in microseconds.
func (s sample) perRequest() float64 {
	return float64(s.cpu.Nanoseconds()) / 1000 / float64(s.requests)
}

func (s sample) perSecond() float64 { return float64(s.requests) / s.elapsed.Seconds() }

// saturate sends one request after another on each connection for a while (closed
// loop), or, where limit is not 0, until at least that many were sent.
func (s *subject) saturate(ctx context.Context, d time.Duration, limit int) (sample, error) {
	if err := s.connect(s.parallel); err != nil {
		return sample{}, err
	}
	before, err := s.proxy.cpu()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	deadline := began.Add(d)
	var done atomic.Int64
	share := (limit + s.parallel - 1) / s.parallel
	err = s.each(ctx, func(c *conn) error {
		count := 0
		defer func() { done.Add(int64(count)) }()
		for (limit == 0 && time.Now().Before(deadline)) || count < share {
			if err := c.exchange(s.request()); err != nil {
				return err
			}
			count++
		}
		return nil
	})
	got := sample{requests: int(done.Load()), elapsed: time.Since(began)}
	if err != nil {
		return got, err
	}
	after, err := s.proxy.settled()
	got.cpu = after - before
	if got.requests == 0 {
		return got, errors.New("not one request was answered")
	}
	return got, err
}

// settled is the CPU time when the last request's rests are done: the scheduler
// counts a thread's time when it stops running.
func (p *proxy) settled() (time.Duration, error) {
	time.Sleep(2 * time.Millisecond)
	return p.cpu()
}

// each runs work for each connection, at the same time, and gives one of the
// errors. Nothing takes longer than half a minute.
func (s *subject) each(ctx context.Context, work func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(s.conns))
	for _, c := range s.conns {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		wg.Go(func() {
			if err := work(c); err != nil {
				if errors.Is(err, io.EOF) {
					err = fmt.Errorf("the proxy hung up: %w", err)
				}
				errs <- fmt.Errorf("%s: %w", s.name, err)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// filler is a meaningless cookie of as many bytes as a Cookie header's value.
func filler(length int) string {
	const name = "meaningless="
	return name + strings.Repeat("x", max(0, length-len(name)))
}
