package caddyauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// A form is kept under a hash of its session's ID, so that there is one of each
// session, and sealed with a key that is only in the browser's cookie: who reads
// the memory or the store learns nothing of it, not even with our key. The
// cookie is sealed with that.
//
// It is taken out by writing over it, which the store lets one of all do: what
// is left says that it was sent.

// keptPost is a form that is kept.
type keptPost struct {
	id       string // 16 random bytes, drawn for this form
	subject  string // who sent it, and who alone may send it again
	origin   string
	uri      string // path and query, as the client wrote them
	mimeType string // the Content-Type; empty: none
	referer  string // the page it was on; empty: not known
	at       time.Time
	body     []byte
}

const (
	// keptFor is for how long a form is kept: as long as a login may take, and
	// as long again to answer the question on our page.
	keptFor = 2 * loginStateLifetime

	// keptTime bounds how long a request waits for the store of forms.
	keptTime = 5 * time.Second

	maxKeptURL = 8 << 10 // of the form's own URL, and of that of its page
)

func newKeptPost(r *http.Request, at origin, subject string, body []byte, now time.Time) *keptPost {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand crashes the program instead
	post := &keptPost{
		id: string(id[:]), subject: subject, origin: at.String(), uri: originalURL(r).RequestURI(),
		mimeType: r.Header.Get("Content-Type"), at: now, body: body,
	}
	if referer := r.Header.Get("Referer"); strings.HasPrefix(referer, post.origin+"/") && len(referer) <= maxKeptURL {
		post.referer = referer
	}
	return post
}

func (k *keptPost) encode() []byte {
	var w sealed.Writer
	for _, text := range []string{k.id, k.subject, k.origin, k.uri, k.mimeType, k.referer} {
		w.Text(text)
	}
	w.Time(k.at)
	w.Text(string(k.body))
	return w.Bytes()
}

func decodeKeptPost(data []byte) (*keptPost, error) {
	r := sealed.NewReader(data)
	k := &keptPost{id: r.Text(), subject: r.Text(), origin: r.Text(), uri: r.Text(), mimeType: r.Text(), referer: r.Text(), at: r.Time()}
	k.body = []byte(r.Text())
	if r.Err() != nil || len(k.id) != 16 || k.subject == "" || !strings.HasPrefix(k.uri, "/") {
		return nil, sealed.ErrRecord
	}
	return k, nil
}

// keptTicket is what the browser's cookie holds: where its form is, and what
// opens it.
type keptTicket struct {
	session string // the ID of the one that had ended
	key     rp.Secret
}

// handle names the form in the store.
func (t keptTicket) handle() string {
	sum := sha256.Sum256([]byte("pkce_auth replay " + t.session))
	return "replay-" + hex.EncodeToString(sum[:])
}

func (t keptTicket) box() (*sealed.Box, error) {
	ring, err := sealed.NewKeyring([]byte(t.key.Reveal()))
	if err != nil {
		return nil, err
	}
	return sealed.NewBox(ring, "form", t.handle()), nil
}

// keptJar is the cookie of the ticket. It is Lax, because the login that stands
// between comes back from another site.
func (p *relyingParty) keptJar(secure bool) *sealed.Jar {
	return &sealed.Jar{Cookie: loginCookie(p.site.cookies(secure).kept, secure), Box: p.sealing.kept, MaxChunks: 1}
}

func (p *relyingParty) ticketOf(cookies []string, secure bool) (t keptTicket, err error) {
	data, err := p.keptJar(secure).Read(cookies)
	if err != nil {
		return keptTicket{}, err
	}
	r := sealed.NewReader(data)
	id, key := r.Text(), r.Text()
	if r.Err() != nil || id == "" || len(key) != sealed.MinSecretSize {
		return keptTicket{}, sealed.ErrNoCookie
	}
	return keptTicket{id, rp.NewSecret(key)}, nil
}

// keep keeps a form, in the place of one of the same session, and gives the
// browser what opens it.
func (p *relyingParty) keep(w http.ResponseWriter, r *http.Request, at origin, post *keptPost, id string) error {
	key := make([]byte, sealed.MinSecretSize)
	_, _ = rand.Read(key) // never fails: crypto/rand crashes the program instead
	t := keptTicket{id, rp.NewSecret(string(key))}
	box, err := t.box()
	if err != nil {
		return err
	}
	value, err := box.SealBytes(post.encode())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), keptTime)
	defer cancel()
	if err := p.putKept(ctx, t.handle(), value, post.at.Add(keptFor)); err != nil {
		return err
	}
	a, _ := p.authState(r)
	return a.setCookies(w.Header(), func(h http.Header) error {
		var ticket sealed.Writer
		ticket.Text(t.session)
		ticket.Text(t.key.Reveal())
		return p.keptJar(at.secure()).Write(h, nil, ticket.Bytes(), keptFor)
	})
}

// putTries is how often a form is put where another of the same session stands,
// or is just being put.
const putTries = 3

func (p *relyingParty) putKept(ctx context.Context, handle string, value []byte, expires time.Time) (err error) {
	posts := p.sessions.posts
	if posts != store.Store(&p.shared.posts.memory) {
		for _, oldest := range p.shared.posts.ledger.enter(handle, len(value), p.now(), expires) {
			_ = posts.Delete(ctx, oldest) // it is gone in a while
		}
	}
	for range putTries {
		var before store.Record
		if before, err = posts.Load(ctx, handle); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = posts.Save(ctx, handle, store.Record{Value: value, Version: before.Version + 1, Expires: expires})
		if !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%w: keeping a form: %w", session.ErrStore, err)
	}
	return nil
}

// What may become of looking for a form.
var (
	errKeptGone = errors.New("nothing is kept")
	errKeptSent = errors.New("it was sent")
)

// found is a form that is kept, and where.
type found struct {
	*keptPost
	ticket  keptTicket
	version uint64
	expires time.Time
}

// findKept returns the form that a browser's cookie opens. The error is
// errKeptGone or errKeptSent; another says that it cannot be told now.
func (p *relyingParty) findKept(ctx context.Context, cookies []string, at origin) (*found, error) {
	t, err := p.ticketOf(cookies, at.secure())
	if errors.Is(err, sealed.ErrNoCookie) {
		return nil, errKeptGone
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, keptTime)
	defer cancel()
	record, err := p.sessions.posts.Load(ctx, t.handle())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errKeptGone
	case err != nil:
		return nil, fmt.Errorf("%w: looking for a form: %w", session.ErrStore, err)
	case len(record.Value) == 0:
		return nil, errKeptSent
	}
	box, err := t.box()
	if err != nil {
		return nil, err
	}
	data, err := box.OpenBytes(record.Value)
	if err != nil { // another form of the same session has taken its place
		return nil, errKeptGone
	}
	post, err := decodeKeptPost(data)
	if err != nil || post.origin != at.String() {
		return nil, errKeptGone
	}
	return &found{post, t, record.Version, record.Expires}, nil
}

// takeKept takes a form out, for who sends it: one of all who try.
func (p *relyingParty) takeKept(ctx context.Context, f *found) error {
	ctx, cancel := context.WithTimeout(ctx, keptTime)
	defer cancel()
	err := p.sessions.posts.Save(ctx, f.ticket.handle(), store.Record{Version: f.version + 1, Expires: f.expires})
	switch {
	case errors.Is(err, store.ErrConflict):
		return errKeptSent
	case err != nil:
		return fmt.Errorf("%w: taking out a form: %w", session.ErrStore, err)
	default:
		return nil
	}
}

// dropKept forgets the form that a browser's cookie opens, and the cookie.
func (p *relyingParty) dropKept(ctx context.Context, w http.ResponseWriter, a *authState, secure bool) {
	if t, err := p.ticketOf(a.cookies, secure); err == nil {
		_ = p.sessions.posts.Delete(ctx, t.handle()) // nobody opens it without the cookie, and it is gone in a while
	}
	_ = a.setCookies(w.Header(), func(h http.Header) error {
		p.keptJar(secure).Delete(h, a.cookies)
		return nil
	})
}

// keptLedger is what this process has put into a store that others share, the
// oldest first. The store has no bound of its own.
type keptLedger struct {
	mu      sync.Mutex
	entries []keptEntry
	size    int
}

type keptEntry struct {
	handle  string
	size    int
	expires time.Time
}

// enter adds an entry, and returns what must go for it.
func (l *keptLedger) enter(handle string, size int, now, expires time.Time) (drop []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, keptEntry{handle, size, expires})
	l.size += size
	for len(l.entries) > 1 {
		oldest := l.entries[0]
		if now.Before(oldest.expires) && l.size <= maxKeptSize && len(l.entries) <= maxKeptEntries {
			break
		}
		l.entries = l.entries[1:]
		l.size -= oldest.size
		if now.Before(oldest.expires) && oldest.handle != handle {
			drop = append(drop, oldest.handle)
		}
	}
	return drop
}

// maxKeptEntries bounds how many forms one process puts into a store.
const maxKeptEntries = 10_000
