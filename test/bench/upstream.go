package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// What the upstream wants stands in the path, so that one upstream is there for
// all; the paths are of the same length. Any other path is answered, whatever
// comes with it.
const (
	plainPath = "/plain" // no Authorization
	tokenPath = "/token" // one of the access tokens that the provider issued
)

// upstream is the application behind all proxies. It does so little that it
// is the proxies that are measured: no net/http, and no allocation for a request.
type upstream struct {
	addr     string
	issued   func() []string // all tokens so far; asked when one comes that is not known
	listener net.Listener
	tokens   sync.RWMutex
	known    map[string]bool
	seen     int // how many of those that were issued are among them
	requests atomic.Int64
	wrong    atomic.Int64 // requests that came without what the path wants
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

func startUpstream(issued func() []string) (*upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{addr: listener.Addr().String(), issued: issued, listener: listener, conns: map[net.Conn]bool{}, known: map[string]bool{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns[conn] = true
			u.mu.Unlock()
			go u.serve(conn)
		}
	}()
	return u, nil
}

func (u *upstream) close() {
	_ = u.listener.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	for conn := range u.conns {
		_ = conn.Close()
	}
}

var (
	body    = strings.Repeat("The answer of an application. ", 8)
	right   = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	refused = []byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	bearer  = []byte("Authorization: Bearer ")
	author  = []byte("Authorization:")
)

func (u *upstream) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		u.mu.Lock()
		delete(u.conns, conn)
		u.mu.Unlock()
	}()
	r := bufio.NewReaderSize(conn, 32<<10)
	for {
		ok, err := u.read(r)
		if err != nil {
			return
		}
		u.requests.Add(1)
		answer := right
		if !ok {
			u.wrong.Add(1)
			answer = refused
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// read reads one request, and reports whether it brings what its path wants.
func (u *upstream) read(r *bufio.Reader) (bool, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	plain := bytes.Contains(line, []byte(plainPath+" "))
	token := bytes.Contains(line, []byte(tokenPath+" "))
	came, valid := false, false
	for {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return (!plain || !came) && (!token || valid), nil
		}
		if token && bytes.HasPrefix(line, bearer) {
			valid = u.knows(line[len(bearer):])
		}
		came = came || bytes.HasPrefix(line, author)
	}
}

func (u *upstream) knows(token []byte) bool {
	u.tokens.RLock()
	known := u.known[string(token)]
	u.tokens.RUnlock()
	if known {
		return true
	}
	u.tokens.Lock()
	defer u.tokens.Unlock()
	all := u.issued()
	for _, token := range all[u.seen:] {
		u.known[token] = true
	}
	u.seen = len(all)
	return u.known[string(token)]
}
