package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const startTable = "start"

// coldStarts says how long it takes from the start of the process to its first
// answer: of bare Caddy, of ours where the first to come has a session from
// before, and of ours where nobody has, nor is there a key yet.
func coldStarts(b *bench) error {
	const secret = "a-secret-of-more-than-32-bytes-that-a-bench-may-show"
	starts := 20
	if b.opts.quick {
		starts = 2
	}
	b.tokensOf(usualSize)
	configured := strings.Replace(protected("cookie"), "client_id bench\n", "client_id bench\n\t\tcookie_secret "+secret+"\n", 1)
	var cookie string
	err := b.during(func() error { // somebody who was there before
		p, err := b.caddy(ourCaddy, configured)
		if err != nil {
			return err
		}
		sessions, err := b.logins(p, 1)
		if err == nil {
			cookie = sessions[0].cookie
		}
		return err
	})
	if err != nil {
		return err
	}
	kinds := []struct {
		name, pkg, directives, path, header string
		status                              int
	}{
		{bareName, bareCaddy, toUpstream, plainPath, "", http.StatusOK},
		{"with a session", ourCaddy, configured, tokenPath, "Cookie: " + cookie + "\r\n", http.StatusOK},
		{"the first ever", ourCaddy, protected("cookie"), tokenPath, "", http.StatusUnauthorized},
	}
	took := make([][]float64, len(kinds))
	for range starts {
		for i, k := range kinds {
			err := b.during(func() error {
				p, err := b.caddy(k.pkg, k.directives)
				if err != nil {
					return err
				}
				began := time.Now()
				status, err := b.answer(p, "GET "+k.path+" HTTP/1.1\r\nHost: "+p.addr+"\r\nAccept: */*\r\n"+k.header+"\r\n")
				if err == nil && status != k.status {
					err = fmt.Errorf("the first answer is %d, want %d", status, k.status)
				}
				took[i] = append(took[i], float64((p.took+time.Since(began)).Microseconds())/1000)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	for i, k := range kinds {
		b.report.add(spreadOf(took[i]).as(startTable, k.name, "first answer ms"))
		if i > 0 {
			b.report.add(paired(took[i], took[0], difference).as(startTable, k.name, "above bare ms").wanting(15, "at most 15 ms more than bare"))
		}
		info, err := os.Stat(b.binaries[k.pkg])
		if err != nil {
			return err
		}
		b.report.add(figure{Scenario: startTable, Subject: k.name, Measure: "binary MB", Value: float64(info.Size()) / 1e6})
	}
	b.report.note(startTable, "from the start of the process, %d starts of each in turns; the first ever makes the key that seals cookies, and says 401", starts)
	return nil
}

// answer sends one request over a connection of its own, and gives the answer's
// status.
func (b *bench) answer(p *proxy, request string) (int, error) {
	c, err := new(net.Dialer).DialContext(b.ctx, "tcp", p.addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, request); err != nil {
		return 0, err
	}
	return status(bufio.NewReader(c))
}

// status reads an answer, whatever it is, and gives its status.
func status(r *bufio.Reader) (int, error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
