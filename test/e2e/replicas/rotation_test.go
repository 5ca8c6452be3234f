package replicas

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newcomers log in one after the other, and look around, until stop is called.
// It returns how many there were.
func (w *world) newcomers() (stop func() int) {
	var over atomic.Bool
	var all sync.WaitGroup
	n := 0
	all.Go(func() {
		for !over.Load() {
			b := w.browser()
			a := b.follow(b.visit("/app", anyone), anyone)
			if a.status != http.StatusOK {
				w.t.Errorf("a login failed: %s", a)
				return
			}
			for range 3 {
				if a := b.fetch("/api", anyone); a.status != http.StatusOK {
					w.t.Errorf("after a login: %s", a)
				}
			}
			n++
			time.Sleep(100 * time.Millisecond)
		}
	})
	return func() int {
		over.Store(true)
		all.Wait()
		return n
	}
}

// A given secret is replaced in three steps, one replica after the other, so
// that they are at different steps, under load and with logins all the time:
// no logout, and no error. Who then logs out a subject means also the sessions
// that began with the old secret.
func TestSecretRotatesUnderLoad(t *testing.T) {
	each(t, append([]kind{cookieThree}, shared...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, session: "idle 10s"}) // written, and sealed anew, each second
		browsers := []*browser{w.as("alice"), w.as("alice"), w.as("alice"), w.as("alice")}
		stop, stopLogins := w.busy(browsers, "/api"), w.newcomers()
		step := func(secrets string) {
			for _, r := range w.replicas {
				if err := r.reload(secrets); err != nil {
					t.Fatal(err)
				}
				w.setup.secrets = secrets
				time.Sleep(300 * time.Millisecond)
			}
		}
		step(secretA + " " + secretB)
		step(secretB + " " + secretA)
		time.Sleep(2500 * time.Millisecond)
		step(secretB)
		time.Sleep(500 * time.Millisecond)
		logins := stopLogins()
		o := stop()
		w.replicas[0].process.kill() // which knew the old one
		w.replicas[0].start()
		w.replicas[0].isUp()
		lost := 0
		for _, b := range browsers {
			if a := b.fetch("/api", 0); a.status != http.StatusOK {
				lost++
			}
		}
		bad := o.not(http.StatusOK)
		measured.add(row{
			"g. cookie_secret rotated in three steps, under load", k.String(), 0, o.total() + 7*logins, len(bad), lost,
			fmt.Sprintf("%d logins meanwhile; %d connections reset before they were accepted", logins, w.unbroken()),
		})
		if len(bad) > 0 || lost > 0 {
			t.Errorf("%d sessions were lost; these requests failed: %s", lost, few(bad))
		}
		w.ends("back-channel logout after the rotation", browsers, nil, func() { w.backChannel(1, "alice", "") })
	})
}

// The key that makes itself: replicas that start together on an empty storage
// agree on one, and one that joins later finds it, under load.
func TestGeneratedKeyIsShared(t *testing.T) {
	each(t, append([]kind{cookieThree}, shared...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, secrets: "generated"})
		began := w.browser()
		var first sync.WaitGroup
		var starts [3]answer
		for to := range w.replicas { // the very first use, everywhere at once
			first.Go(func() { starts[to] = began.visit("/app", to) })
		}
		first.Wait()
		for to, a := range starts {
			if b := began.follow(a, (to+1)%3); b.status != http.StatusOK {
				t.Fatalf("a login that began at replica %d: %s", to, b)
			}
		}
		browsers := []*browser{w.as("alice"), w.as("alice"), w.as("bob")}
		stop, stopLogins := w.busy(browsers, "/api"), w.newcomers()
		time.Sleep(300 * time.Millisecond)
		w.joins()
		time.Sleep(time.Second)
		logins := stopLogins()
		o := stop()
		bad, lost := o.not(http.StatusOK), 0
		for _, b := range browsers {
			if a := b.fetch("/api", 3); a.status != http.StatusOK {
				lost++
			}
		}
		measured.add(row{
			"g. generated key, a replica joins under load", k.String(), 0, o.total() + 7*logins, len(bad), lost,
			fmt.Sprintf("%d logins meanwhile; %d connections reset before they were accepted", logins, w.unbroken()),
		})
		if len(bad) > 0 || lost > 0 {
			t.Errorf("%d sessions were lost; these requests failed: %s", lost, few(bad))
		}
	})
}
