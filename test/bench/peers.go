package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
)

// Where the binaries of other proxies are, if they are to take part. The bench
// never builds them.
const (
	oauth2ProxyBinary   = "OAUTH2_PROXY_BIN"
	caddySecurityBinary = "CADDY_SECURITY_BIN"
)

// peer is another proxy, with somebody logged in.
type peer struct {
	name   string
	proxy  *proxy
	path   string // what its upstream wants
	cookie string
}

// lanes are all peers. The first needs no binary but ours: it shows what
// forward_auth itself costs.
var lanes = []struct {
	name, variable string
	launch         func(b *bench, binary string) (peer, error)
}{
	{"forward_auth pkce_auth", "", (*bench).forwardToOurs},
	{"oauth2-proxy", oauth2ProxyBinary, (*bench).oauth2Proxy},
	{"forward_auth oauth2-proxy", oauth2ProxyBinary, (*bench).forwardToOAuth2Proxy},
	{"caddy-security", caddySecurityBinary, (*bench).caddySecurity},
}

// peers gives the other proxies as subjects, where there are any. One that does
// not work is missing, and a note says why: it is not ours that failed.
func (b *bench) peers(scenario string) ([]*subject, error) {
	if b.last.absent == nil {
		b.last.absent = map[string]error{}
		for _, lane := range lanes {
			err := errors.New("no binary: set " + lane.variable)
			if binary := os.Getenv(lane.variable); binary != "" || lane.variable == "" {
				err = b.lasting(func() error {
					p, err := lane.launch(b, binary)
					p.name = lane.name
					if err == nil {
						b.last.peers = append(b.last.peers, p)
					}
					return err
				})
			}
			if err != nil {
				b.last.absent[lane.name] = err
			}
			if b.ctx.Err() != nil {
				return nil, b.ctx.Err()
			}
		}
	}
	for _, lane := range lanes {
		if err := b.last.absent[lane.name]; err != nil {
			b.report.note(scenario, "%s: not measured: %v", lane.name, err)
		}
	}
	var subjects []*subject
	for _, p := range b.last.peers {
		subjects = append(subjects, newSubject(p.name, p.proxy, p.path, []string{"Cookie: " + p.cookie + "\r\n"}))
	}
	return subjects, nil
}

// asking is a bare Caddy that asks the one at addr about each request, at path.
// The CPU time of both counts.
func (b *bench) asking(addr, path string) (*proxy, error) {
	return b.caddy(bareCaddy, fmt.Sprintf(`
	handle /oauth2/* {
		reverse_proxy %[1]s
	}
	handle {
		forward_auth %[1]s {
			uri %[2]s
			copy_headers Authorization
			transport http {
				keepalive_idle_conns_per_host 512
			}
		}
		%[3]s
	}
`, addr, path, toUpstream))
}

// forwardToOurs is a bare Caddy in front of one that has pkce_auth.
func (b *bench) forwardToOurs(string) (peer, error) {
	behind, err := b.caddy(ourCaddy, "servers {\ntrusted_proxies static 127.0.0.1/32\n}\n---\n"+
		protected("cookie", "verify on", "unauthorized redirect"))
	if err != nil {
		return peer{}, err
	}
	front, err := b.asking(behind.addr, "/oauth2/verify")
	if err != nil {
		return peer{}, err
	}
	front.behind = behind.process
	return b.peer(front, tokenPath, "/oauth2/login?return_to=/start")
}

// oauth2Proxy is oauth2-proxy as the proxy, with the session in a cookie. It hands
// on the ID token, as pkce_auth does the access token.
func (b *bench) oauth2Proxy(binary string) (peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return peer{}, err
	}
	p, err := b.startOAuth2Proxy(binary, addr, "http://"+addr, "--upstream=http://"+b.upstream.addr, "--pass-authorization-header=true")
	if err != nil {
		return peer{}, err
	}
	return b.peer(&proxy{process: p, site: "http://" + addr}, tokenPath, "/oauth2/start?rd=/start")
}

// forwardToOAuth2Proxy is a bare Caddy in front of an oauth2-proxy.
func (b *bench) forwardToOAuth2Proxy(binary string) (peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return peer{}, err
	}
	front, err := b.asking(addr, "/oauth2/auth")
	if err != nil {
		return peer{}, err
	}
	behind, err := b.startOAuth2Proxy(binary, addr, front.site, "--upstream=static://202", "--reverse-proxy=true", "--set-authorization-header=true")
	if err != nil {
		return peer{}, err
	}
	front.behind = behind
	return b.peer(front, tokenPath, "/oauth2/start?rd=/start")
}

// startOAuth2Proxy starts one without the access log, which Caddy has not either.
func (b *bench) startOAuth2Proxy(binary, addr, site string, more ...string) (*process, error) {
	return b.start(addr, binary, append([]string{
		"--http-address=" + addr, "--provider=oidc", "--oidc-issuer-url=" + b.op.URL, "--redirect-url=" + site + "/oauth2/callback",
		"--client-id=" + peerClient, "--client-secret=" + peerSecret, "--scope=openid profile email", "--code-challenge-method=S256",
		"--insecure-oidc-skip-nonce=false", "--skip-provider-button=true", "--email-domain=*",
		"--cookie-secure=false", "--cookie-secret=" + rand.Text() + rand.Text()[:6],
		"--request-logging=false", "--auth-logging=false", "--standard-logging=false",
	}, more...)...)
}

// caddySecurity is a Caddy that has caddy-security: its portal logs people in, and
// its policy lets them through. It hands no token on.
func (b *bench) caddySecurity(binary string) (peer, error) {
	key := rand.Text() + rand.Text()
	p, err := b.caddyAt(binary, fmt.Sprintf(`
	security {
		oauth identity provider op {
			realm op
			driver generic
			client_id %[1]s
			client_secret %[2]s
			scopes openid email profile
			base_auth_url $OP
			metadata_url $OP/.well-known/openid-configuration
		}
		authentication portal portal {
			crypto default token lifetime 36000
			crypto key sign-verify %[3]s
			cookie insecure on
			enable identity provider op
			transform user {
				match realm op
				action add role authp/user
			}
		}
		authorization policy everybody {
			set auth url /auth/oauth2/op
			crypto key verify %[3]s
			allow roles authp/user
		}
	}
---
	route /auth* {
		authenticate with portal
	}
	route {
		authorize with everybody
		`+toUpstream+`
	}
`, peerClient, peerSecret, key))
	if err != nil {
		return peer{}, err
	}
	return b.peer(p, plainPath, "/auth/oauth2/op")
}

// peer logs somebody in, and looks whether a request then gets through.
func (b *bench) peer(p *proxy, path, start string) (peer, error) {
	b.tokensOf(usualSize)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	login := browser{bench: b, transport: transport, site: p.site}
	if _, err := login.open(start, url.Values{}); err != nil {
		return peer{}, err
	}
	got := peer{proxy: p, path: path, cookie: login.cookies(path)}
	s := newSubject("one request", p, path, []string{"Cookie: " + got.cookie + "\r\n"})
	defer s.disconnect()
	_, err := s.saturate(b.ctx, 0, 1)
	return got, err
}
