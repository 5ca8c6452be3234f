package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"time"
)

const floodTable = "flood"

// floods are requests of nobody: no two of a kind are the same.
var floods = []struct {
	name string
	make func(*victim) (line, header string)
}{
	{"random paths, pages", func(*victim) (string, string) {
		return "GET /" + noise(12) + "?" + noise(6), "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
	}},
	{"random paths, scripts", func(*victim) (string, string) { return "GET /" + noise(12) + "?" + noise(6), "" }},
	{"cookies of garbage", func(v *victim) (string, string) {
		return "GET " + plainPath, "Cookie: " + v.cookie + "=" + noise(1200) + "\r\n"
	}},
	{"forged cookies", func(v *victim) (string, string) {
		return "GET " + plainPath, "Cookie: " + v.cookie + "=" + v.forged() + "\r\n"
	}},
	{"states and codes", func(*victim) (string, string) {
		return "GET /oauth2/callback?code=" + noise(24) + "&state=0" + noise(6) + "." + noise(90), "Accept: text/html\r\n"
	}},
	{"our endpoints", func(*victim) (string, string) {
		endpoints := []string{"login", "logout", "session", "signed-out", "error", "replay", "verify"}
		n := noise(1)
		return "GET /oauth2/" + endpoints[int(n[0])%len(endpoints)] + "?id=" + noise(9) + "&ask=" + noise(30), ""
	}},
	{"forged access tokens", func(v *victim) (string, string) {
		return "GET /api", "Authorization: Bearer " + v.token[:strings.LastIndexByte(v.token, '.')+1] + noise(256) + "\r\n"
	}},
}

func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// victim is who is flooded, and what the attacker knows of it.
type victim struct {
	*proxy
	store  string
	cookie string // the name of the session's
	value  string // a session's that is over
	token  string
	users  *subject // who go on working
}

// forged looks like a session from outside: the version and the key's name stand
// in the clear.
func (v *victim) forged() string { return v.value[:8] + noise(len(v.value) * 3 / 4)[:len(v.value)-8] }

// flooded says what requests of nobody cost, that they leave nothing behind, and
// how long users wait meanwhile.
func flooded(b *bench) error {
	each := 15_000
	if b.opts.quick {
		each = 200
	}
	b.tokensOf(usualSize)
	for _, store := range []string{"cookie", "memory"} {
		v, err := b.newVictim(store)
		if err != nil {
			return err
		}
		defer v.users.disconnect()
		if err := b.flood(v, each); err != nil {
			return fmt.Errorf("sessions in %s: %w", store, err)
		}
	}
	b.report.note(floodTable, "%d requests of each kind, none twice; accept_bearer is on; the last rows are of all kinds together: RAM of its own before and after, and the waits of users who make 200 requests/s, alone and beside 1 000/s of nobody", each)
	return nil
}

func (b *bench) newVictim(store string) (*victim, error) {
	p, err := b.caddy(ourCaddy, strings.Replace(protected(store), "client_id bench\n", "client_id bench\n\t\taccept_bearer "+audience+"\n", 1))
	if err != nil {
		return nil, err
	}
	sessions, err := b.logins(p, 100)
	if err != nil {
		return nil, err
	}
	v := &victim{proxy: p, store: store, token: b.lastTokens()[0], users: newSubject(store, p, tokenPath, asSessions(sessions))}
	v.cookie, v.value, _ = strings.Cut(sessions[0].cookie, "=")
	v.value, _, _ = strings.Cut(v.value, ";")
	return v, nil
}

// flood sends so many requests of each kind.
func (b *bench) flood(v *victim, each int) error {
	if _, err := v.users.saturate(b.ctx, 0, 500); err != nil {
		return err
	}
	for _, kind := range floods { // what is there once is there by now
		if _, err := b.wave(v, kind.make, each/20); err != nil {
			return err
		}
	}
	calls, came := b.calls(), b.upstream.requests.Load()
	before, err := v.held()
	if err != nil {
		return err
	}
	for _, kind := range floods {
		got, err := b.wave(v, kind.make, each)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		subject := v.store + ", " + kind.name
		b.report.add(figure{Scenario: floodTable, Subject: subject, Measure: "CPU µs", Value: got.perRequest()},
			figure{Scenario: floodTable, Subject: subject, Measure: "req/s", Value: got.perSecond()})
	}
	after, err := v.held()
	if err != nil {
		return err
	}
	all := func(measure string, value float64) figure {
		return figure{Scenario: floodTable, Subject: v.store + ", all", Measure: measure, Value: value}
	}
	b.report.add(all("requests", float64(each*len(floods))), all("own MiB before", before.anonymous/mebi), all("own MiB after", after.anonymous/mebi),
		all("heap MiB more", (after.heap-before.heap)/mebi).wanting(1, "a flood leaves memory flat"))
	asked := b.calls() - calls
	b.report.add(all("calls to the provider", float64(asked)))
	if most := 3 + int(time.Since(b.began)/time.Minute); asked > most { // its keys, now and then
		return fmt.Errorf("%d calls to the provider", asked)
	}
	if n := b.upstream.requests.Load() - came; n != 0 {
		return fmt.Errorf("%d requests of nobody came to the upstream", n)
	}
	return b.meanwhile(v)
}

// calls counts the requests that the provider got.
func (b *bench) calls() (n int) {
	for _, endpoint := range []string{"metadata", "keys", "authorize", "token", "userinfo", "revoke", "end_session"} {
		n += len(b.op.Requests(endpoint))
	}
	return n
}

// of makes n requests of a kind.
func (v *victim) of(kind func(*victim) (line, header string), n int) *subject {
	s := newSubject(floodTable, v.proxy, "", nil)
	for range n {
		line, header := kind(v)
		s.requests = append(s.requests, []byte(line+" HTTP/1.1\r\nHost: "+v.addr+"\r\nUser-Agent: flood\r\n"+header+"\r\n"))
	}
	return s
}

// wave sends n requests of a kind, as fast as they are answered. No answer may be
// 200 but that of an endpoint of ours.
func (b *bench) wave(v *victim, kind func(*victim) (line, header string), n int) (sample, error) {
	s := v.of(kind, n)
	if err := s.connect(connections); err != nil {
		return sample{}, err
	}
	defer s.disconnect()
	before, err := v.settled()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	err = s.each(b.ctx, func(c *conn) error {
		for {
			n := s.next.Add(1) - 1
			if n >= int64(len(s.requests)) {
				return nil
			}
			if err := c.refused(s.requests[n]); err != nil {
				return err
			}
		}
	})
	elapsed := time.Since(began)
	if err != nil {
		return sample{}, err
	}
	after, err := v.settled()
	return sample{requests: n, elapsed: elapsed, cpu: after - before}, err
}

// refused sends a request of nobody, and reads the answer.
func (c *conn) refused(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	got, err := status(c.r)
	if err == nil && got == 200 && !strings.HasPrefix(string(request), "GET /oauth2/") {
		err = fmt.Errorf("%.200q was answered with 200", request)
	}
	return err
}

// meanwhile says how long users wait while nobody's requests come.
func (b *bench) meanwhile(v *victim) error {
	const rate, others = 200, 1000
	d := 3 * time.Second
	if b.opts.quick {
		d = 200 * time.Millisecond
	}
	alone, err := v.users.pace(b.ctx, rate, d)
	if err != nil {
		return err
	}
	n := int(d.Seconds() * others)
	var waves []*subject
	for _, kind := range floods {
		waves = append(waves, v.of(kind.make, n/len(floods)))
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(waves))
	for _, s := range waves {
		if err := s.connect(1); err != nil {
			return err
		}
		defer s.disconnect()
		wg.Go(func() {
			began := time.Now()
			errs <- s.each(b.ctx, func(c *conn) error {
				for i, request := range s.requests {
					sleepUntil(began.Add(time.Duration(i) * d / time.Duration(len(s.requests))))
					if err := c.refused(request); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	beside, err := v.users.pace(b.ctx, rate, d)
	wg.Wait()
	close(errs)
	for failed := range errs {
		if err == nil {
			err = failed
		}
	}
	for i, waits := range [][]float64{alone, beside} {
		when := []string{"alone", "meanwhile"}[i]
		if len(waits) > 0 {
			b.report.add(figure{Scenario: floodTable, Subject: v.store + ", users " + when, Measure: "p50 µs", Value: quantile(waits, 0.5)},
				figure{Scenario: floodTable, Subject: v.store + ", users " + when, Measure: "p99 µs", Value: quantile(waits, 0.99)})
		}
	}
	return err
}
