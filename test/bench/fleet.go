package main

import (
	"fmt"
	"strings"
)

// The sizes of access and ID tokens, in bytes, and the one of which most is
// asked.
var tokenSizes = []int{800, 2000, 6000}

const usualSize = 2000

func kB(size int) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(size)/1000), ".0") + " kB"
}

// fleet is what most scenarios compare: a Caddy that has no pkce_auth, and one
// with each kind of session, each with somebody logged in with tokens of each
// size. It is started once and lasts as long as the bench: it costs nothing
// while something else is measured.
type fleet struct {
	bare   *proxy
	stores []*storeProxy
}

// storeProxy is a Caddy with sessions in one store.
type storeProxy struct {
	*proxy
	store  string
	logins map[int]session // by size
	tokens map[int][2]string
}

// fleet starts it. A store that cannot run here is missing, and a note says so
// wherever it would have been measured.
func (b *bench) fleet(scenario string) (*fleet, error) {
	if b.last.fleet == nil {
		if err := b.lasting(b.launch); err != nil {
			return nil, err
		}
	}
	if b.last.redisErr != nil {
		b.report.note(scenario, "sessions in redis: not measured: %v", b.last.redisErr)
	}
	return b.last.fleet, nil
}

func (b *bench) launch() error {
	f := &fleet{}
	var err error
	if f.bare, err = b.caddy(bareCaddy, toUpstream); err != nil {
		return err
	}
	_, _ = b.startRedis() // the error is kept
	for _, store := range []string{"cookie", "memory", "redis"} {
		if store == "redis" && b.last.redisErr != nil {
			continue
		}
		p, err := b.caddy(ourCaddy, protected(store))
		if err != nil {
			return err
		}
		s := &storeProxy{proxy: p, store: store, logins: map[int]session{}, tokens: map[int][2]string{}}
		for _, size := range tokenSizes {
			b.tokensOf(size)
			sessions, err := b.logins(p, 1)
			if err != nil {
				return fmt.Errorf("sessions in %s: %w", store, err)
			}
			s.logins[size] = sessions[0]
			s.tokens[size] = b.lastTokens()
		}
		f.stores = append(f.stores, s)
	}
	b.last.fleet = f
	return nil
}

// lastTokens are the access token and the ID token that were issued last.
func (b *bench) lastTokens() [2]string {
	var access, identity string
	for _, secret := range b.op.Issued() {
		switch claims := payload(secret); {
		case strings.Contains(claims, `"nonce"`):
			identity = secret
		case claims != "":
			access = secret
		}
	}
	return [2]string{access, identity}
}

// protected are the directives of a site with pkce_auth, with sessions in that
// store, and with further options.
func protected(store string, options ...string) string {
	session := store
	if store == "redis" {
		session += " {\naddress $REDIS\n}"
	}
	return `
	pkce_auth {
		issuer $OP
		client_id bench
		scopes ` + scopes + `
		audience ` + audience + `
		session ` + session + `
		` + strings.Join(options, "\n\t\t") + `
	}
` + toUpstream
}

// subject is requests with the session of a login with tokens of that size.
func (s *storeProxy) subject(size int) *subject {
	return newSubject(s.store+" "+kB(size), s.proxy, tokenPath, asSessions([]session{s.logins[size]}))
}

// carrying is bare Caddy and requests that carry as many bytes, in a cookie that
// means nothing, and with a token in an Authorization header of its own.
func (f *fleet) carrying(name string, cookie int, token string) *subject {
	header, path := "Cookie: "+filler(cookie)+"\r\n", plainPath
	if token != "" {
		header, path = header+"Authorization: Bearer "+token+"\r\n", tokenPath
	}
	return newSubject(name, f.bare, path, []string{header})
}
