package caddyauth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// keptPosts are the forms that this process keeps, and those that it is
// reading. Both are bounded, for all of a provider's users together: anybody
// who has had a session may send what they like.
type keptPosts struct {
	memory store.Memory // where sessions are not in a store that others share
	ready  sync.Once
	ledger keptLedger

	mu      sync.Mutex
	reading map[string]int // how many forms of a session are being read
	size    int64          // of what has been read of them
}

const (
	// maxKeptSize bounds what is kept of one provider's forms. Where they are in
	// a store, it bounds what one process has put there.
	maxKeptSize = 64 << 20

	// maxReadingSize bounds what is being read.
	maxReadingSize = 64 << 20

	// maxReading bounds how many forms of one session are read at a time: two,
	// for who clicks twice. Nobody can have all there is by sending slowly.
	maxReading = 2
)

// here is the store of this process.
func (k *keptPosts) here() store.Store {
	k.ready.Do(func() { k.memory.Limit = maxKeptSize })
	return &k.memory
}

// errNotKept says why a form is not kept: it is nobody's fault but its own.
var errNotKept = errors.New("it cannot be kept")

// read reads a body of at most so many bytes, of a form of a session's. What is
// read counts until done is called.
func (k *keptPosts) read(r *http.Request, limit int64, id string) (body []byte, done func(), err error) {
	if !k.begin(id) {
		return nil, func() {}, fmt.Errorf("%w: the session is sending others", errNotKept)
	}
	var held int64
	done = func() { k.end(id, held) }
	if r.Body == nil {
		return nil, done, nil
	}
	chunk := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(chunk)
		switch {
		case int64(len(body)+n) > limit:
			return nil, done, fmt.Errorf("%w: it has more than %d bytes", errNotKept, limit)
		case !k.hold(int64(n)):
			return nil, done, fmt.Errorf("%w: too many others are being read", errNotKept)
		}
		held += int64(n)
		body = append(body, chunk[:n]...)
		if err == io.EOF {
			return body, done, nil
		}
		if err != nil { // it broke off: half a form is none
			return nil, done, fmt.Errorf("%w: reading it: %w", errNotKept, err)
		}
	}
}

func (k *keptPosts) begin(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reading[id] >= maxReading {
		return false
	}
	if k.reading == nil {
		k.reading = make(map[string]int)
	}
	k.reading[id]++
	return true
}

func (k *keptPosts) hold(n int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.size+n > maxReadingSize {
		return false
	}
	k.size += n
	return true
}

func (k *keptPosts) end(id string, held int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.size -= held
	if k.reading[id]--; k.reading[id] == 0 {
		delete(k.reading, id)
	}
}

const (
	// replayField is the one field of the form on our page.
	replayField = "pkce_auth_replay"

	// maxReplayForm bounds that form.
	maxReplayForm = 512
)

// replayForm returns what the form on our page says, if that is what a request
// brings. No other form is looked into but short ones that come from that page,
// or while something is kept; and those go on as they are.
func (p *relyingParty) replayForm(r *http.Request) (token string, ours bool) {
	if r.Method != http.MethodPost || r.Body == nil || r.ContentLength <= 0 || r.ContentLength > maxReplayForm ||
		r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return "", false
	}
	at, err := p.site.origins.of(r)
	if err != nil {
		return "", false
	}
	a, _ := p.authState(r)
	_, marked := sealed.Value(a.cookies, p.site.cookies(at.secure()).kept, 0)
	if !marked && r.Header.Get("Referer") != at.String()+p.site.endpoints.prefix+pathReplay {
		return "", false
	}
	head, err := io.ReadAll(io.LimitReader(r.Body, maxReplayForm))
	if err == nil {
		token, ours = parseReplayForm(string(head))
	}
	r.Body = &putBack{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
	return token, ours
}

// putBack is a body of which something was read.
type putBack struct {
	io.Reader
	io.Closer
}

// parseReplayForm reads the form on our page, as browsers write it: one field,
// of letters that need no escaping.
func parseReplayForm(text string) (token string, ok bool) {
	token, ok = strings.CutPrefix(text, replayField+"=")
	return token, ok
}
