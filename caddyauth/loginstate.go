package caddyauth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// loginState is what one login remembers from the redirect to the provider
// until the callback. It travels in two halves that belong together by id:
//
//   - a sealed cookie of its own holds the verifier, the nonce and where to
//     go afterwards. It binds the login to this browser.
//   - the sealed `state` parameter names the cookie. It also holds where to go
//     afterwards, if that is short: should the cookie be lost, the user still
//     gets there.
//
// The name of the cookie holds its time, so that the oldest can be told and
// dropped without opening it.
type loginState struct {
	id       string // 16 random bytes
	created  time.Time
	tx       rp.Transaction
	returnTo string

	// silent says that the provider was asked not to show anything, with
	// prompt=none. If it must, the login begins anew without that, once.
	silent bool

	// silence says that a page asked for that, and wants to be back whatever
	// comes of it.
	silence silence

	// again says that the provider was asked to see the user once more, because
	// it had not done so lately enough, or in the right way. It is asked once.
	again bool

	// ask is what the login is to ask for in place of what is configured.
	ask rp.Ask

	// params are what was configured and what the link to our login had added,
	// for a login that begins anew.
	params []rp.Param

	// before is the session that the browser had when the login began, which
	// this login ends: the callback does not see it, when it comes from another
	// site by POST, or when the session's cookie is SameSite=Strict.
	before session.Session

	// attempt counts how often in a row this login had to begin anew because
	// its state was gone. It stands in front of the sealed part of `state`, in
	// the clear, so that it ends a loop even when nothing can be opened any
	// more; a forged one ends it earlier, that is all.
	attempt int
}

const (
	loginStateLifetime = 10 * time.Minute

	// maxReturnToInState keeps `state` short: providers refuse long ones.
	maxReturnToInState = 256

	// The budgets of a browser's login states, of one provider's cookies, and of
	// those of all providers. Caddy refuses requests whose headers exceed
	// 16 KiB, and others set cookies, too (F17).
	maxLoginStates    = 12
	maxLoginStateSize = 4 << 10
	maxCookiesSize    = 8 << 10
	maxAllCookies     = 12 << 10
)

// loginStates seals and opens login states of one provider.
type loginStates struct {
	state *sealed.Box
	box   *sealed.Box
	tag   string // stands in `state`, says whose it is
	post  bool   // whether the callback is a POST, from the provider's page
}

func newLoginState(returnTo string, attempt int, now time.Time) *loginState {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand crashes the program instead
	return &loginState{
		id:       string(id[:]),
		created:  now.Truncate(time.Second), // what its cookie's name can hold
		tx:       rp.NewTransaction(),
		returnTo: returnTo,
		attempt:  attempt,
	}
}

// replaces says which session the browser has when the login begins.
func (s *loginState) replaces(before *session.Session) {
	s.before = session.Session{ID: before.ID, Created: before.Created, Identity: rp.Identity{Subject: before.Subject}}
	s.before.Step.Row = before.Step.Row
}

// param gives the value of the `state` parameter:
// <attempt><provider's tag>.<sealed>.
func (l *loginStates) param(s *loginState) (string, error) {
	var w sealed.Writer
	w.Text(s.id)
	w.Time(s.created)
	w.Text(withoutQueryBeyond(s.returnTo, maxReturnToInState))
	text, err := l.state.Seal(w.Bytes())
	if err != nil {
		return "", err
	}
	return strconv.Itoa(min(s.attempt, 9)) + l.tag + "." + text, nil
}

// stateParam is a `state` parameter taken apart. Only what open gives of it
// can be believed.
type stateParam struct {
	attempt int
	tag     string
	sealed  string
}

func parseStateParam(text string) stateParam {
	head, text, _ := strings.Cut(text, ".")
	if len(head) == 0 || head[0] < '0' || head[0] > '9' {
		return stateParam{}
	}
	return stateParam{attempt: int(head[0] - '0'), tag: head[1:], sealed: text}
}

// open opens the `state` parameter. It gives no more than the cookie's name
// and where to go: without the cookie, no login can be completed.
func (l *loginStates) open(p stateParam) (*loginState, error) {
	data, err := l.state.Open(p.sealed)
	if err != nil {
		return nil, err
	}
	r := sealed.NewReader(data)
	s := &loginState{id: r.Text(), created: r.Time(), returnTo: r.Text(), attempt: p.attempt}
	if r.Err() != nil || len(s.id) != 16 {
		return nil, sealed.ErrRecord
	}
	return s, nil
}

var errStateGone = errors.New("login state is gone")

// complete adds what the state's cookie holds: errStateGone when there is
// none that fits, or when it is too old.
func (l *loginStates) complete(s *loginState, prefix string, cookies []string, now time.Time) error {
	if now.Sub(s.created) >= loginStateLifetime {
		return fmt.Errorf("%w: it is older than %s", errStateGone, loginStateLifetime)
	}
	name := s.cookieName(prefix)
	for n := range sealed.MaxTries {
		text, ok := sealed.Value(cookies, name, n)
		if !ok {
			break
		}
		data, err := l.box.Open(text, name)
		if err != nil {
			continue
		}
		r := sealed.NewReader(data)
		id, verifier, nonce, returnTo := r.Text(), r.Text(), r.Text(), r.Text()
		if r.Err() != nil || subtle.ConstantTimeCompare([]byte(id), []byte(s.id)) != 1 {
			continue
		}
		s.tx = rp.Transaction{Verifier: rp.NewSecret(encode32(verifier)), Nonce: rp.NewSecret(encode32(nonce))}
		s.returnTo = returnTo
		flags := r.Number()
		s.silent, s.again = flags&flagSilent != 0, flags&flagAgain != 0
		s.params = make([]rp.Param, min(r.Number(), maxLoginParams))
		for i := range s.params {
			s.params[i] = rp.Param{Name: r.Text(), Value: r.Text()}
		}
		s.before.ID, s.before.Created = r.Text(), r.Time()
		s.silence = silence{asked: flags&flagAsked != 0, framed: flags&flagFramed != 0}
		s.ask = readAsk(r)
		s.before.Step.Row = r.Number()
		s.before.Subject = r.Text()
		return nil
	}
	return fmt.Errorf("%w: its cookie is not there", errStateGone)
}

// Verifier and nonce are kept as the 32 bytes that they encode.
func encode32(b string) string { return base64.RawURLEncoding.EncodeToString([]byte(b)) }

func decode32(s rp.Secret) string {
	b, _ := base64.RawURLEncoding.DecodeString(s.Reveal())
	return string(b)
}

// cookieName is <prefix><time>-<id>, both in hexadecimal.
func (s *loginState) cookieName(prefix string) string {
	return fmt.Sprintf("%s%08x-%x", prefix, s.created.Unix(), s.id[:6])
}

// cookieValue seals the half that stays in the browser. It is never
// compressed: the URL is a stranger's, and stands beside the verifier.
func (l *loginStates) cookieValue(s *loginState, name string) (string, error) {
	var w sealed.Writer
	w.Text(s.id)
	w.Text(decode32(s.tx.Verifier))
	w.Text(decode32(s.tx.Nonce))
	w.Text(s.returnTo)
	flags := uint64(0)
	if s.silent {
		flags |= flagSilent
	}
	if s.again {
		flags |= flagAgain
	}
	if s.silence.asked {
		flags |= flagAsked
	}
	if s.silence.framed {
		flags |= flagFramed
	}
	w.Number(flags)
	w.Number(uint64(len(s.params)))
	for _, param := range s.params {
		w.Text(param.Name)
		w.Text(param.Value)
	}
	w.Text(s.before.ID)
	w.Time(s.before.Created)
	writeAsk(&w, s.ask)
	w.Number(s.before.Step.Row)
	w.Text(s.before.Subject)
	return l.box.Seal(w.Bytes(), name)
}

const (
	flagSilent = 1 << iota
	flagAgain
	flagAsked
	flagFramed

	// maxLoginParams bounds how many parameters of a link are remembered.
	maxLoginParams = 32
)

// cookie is the shape of a login state's cookie. For a callback by POST, which
// comes from the provider's page, browsers send it only if it says so; on
// plain HTTP, where they would not take that, they let one pass that says
// nothing, and is young.
func (l *loginStates) cookie(name string, secure bool) sealed.Cookie {
	c := loginCookie(name, secure)
	switch {
	case l.post && secure:
		c.SameSite = http.SameSiteNoneMode
	case l.post:
		c.SameSite = 0
	}
	return c
}

// loginCookie is the shape of a cookie that belongs to a login.
func loginCookie(name string, secure bool) sealed.Cookie {
	return sealed.Cookie{Name: name, Path: "/", SameSite: http.SameSiteLaxMode, Secure: secure}
}

// write adds the state's cookie to the response, and deletes as many others,
// the oldest first, as it takes to stay within the budgets: of login states,
// and of all our cookies together. Other tabs lose no login that way but the
// thirteenth-oldest.
func (l *loginStates) write(h http.Header, s *loginState, names cookieNames, secure bool, cookies []string) error {
	name := s.cookieName(names.login)
	value, err := l.cookieValue(s, name)
	if err == nil && len(name)+len(value) > sealed.MaxCookieSize { // browsers would drop it, and the login with it
		s.params = nil
		value, err = l.cookieValue(s, name)
	}
	if err != nil {
		return err
	}
	present, sessionSize := presentStates(cookies, names, s.created)
	budget := min(maxLoginStateSize, maxCookiesSize-sessionSize) - len(name) - len(value)
	for _, drop := range overBudget(present, maxLoginStates-1, budget) {
		l.cookie(drop, secure).Delete(h)
	}
	l.cookie(name, secure).Set(h, value, loginStateLifetime)
	return nil
}

// presentState is a login state that a request carries.
type presentState struct {
	name    string
	created int64
	size    int
}

// presentStates finds the login states among the cookies, the oldest first,
// and the size of the session's cookies. A state that claims to come from the
// future was planted, and counts as the oldest of all.
func presentStates(cookies []string, names cookieNames, now time.Time) (states []presentState, sessionSize int) {
	sealed.Names(cookies, func(name string, size int) {
		if names.isSession(name) {
			sessionSize += size
			return
		}
		rest, ok := strings.CutPrefix(name, names.login)
		if !ok || slices.ContainsFunc(states, func(s presentState) bool { return s.name == name }) {
			return
		}
		created, err := strconv.ParseInt(rest[:min(8, len(rest))], 16, 64)
		if err != nil || created > now.Add(loginStateLifetime).Unix() {
			created = 0
		}
		states = append(states, presentState{name: name, created: created, size: size})
	})
	slices.SortStableFunc(states, func(a, b presentState) int { return int(a.created - b.created) })
	return states, sessionSize
}

// othersSize is the size of our cookies among the cookies that are not of the
// session called so.
func othersSize(cookies []string, names cookieNames) (size int) {
	sealed.Names(cookies, func(name string, n int) {
		if !names.isSession(name) && isOwnCookie(name, []cookieNames{names}) {
			size += n
		}
	})
	return size
}

// overBudget gives the names of the states to delete, from a list that begins
// with the oldest.
func overBudget(states []presentState, count, size int) (drop []string) {
	total := 0
	for _, s := range states {
		total += s.size
	}
	for _, s := range states {
		if len(states)-len(drop) <= count && total <= size {
			break
		}
		drop = append(drop, s.name)
		total -= s.size
	}
	return drop
}
