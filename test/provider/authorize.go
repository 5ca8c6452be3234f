package provider

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// grant is what a code stands for.
type grant struct {
	client      string
	redirectURI string
	challenge   string
	nonce       string
	scopes      []string
	audience    []string
	user        string
	sid         string
	expires     time.Time
	spent       bool
}

// serveAuthorize is the authorization endpoint (RFC 6749 section 4.1.1). It
// wants every parameter once, PKCE with S256, a state and a nonce.
func (p *Provider) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name, values := range q {
		if len(values) > 1 && name != "resource" {
			http.Error(w, name+" stands twice", http.StatusBadRequest)
			return
		}
	}
	client, ok := p.cfg.Clients[q.Get("client_id")]
	redirect, err := url.Parse(q.Get("redirect_uri"))
	if !ok || err != nil || !redirect.IsAbs() || (client.RedirectURIs != nil && !slices.Contains(client.RedirectURIs, q.Get("redirect_uri"))) {
		http.Error(w, "unknown client_id or redirect_uri", http.StatusBadRequest)
		return
	}
	if problem := checkRequest(q); problem != "" {
		p.respond(w, redirect, q, url.Values{"error": {"invalid_request"}, "error_description": {problem}})
		return
	}
	if refuse := p.fault().RefuseTarget; refuse != nil {
		if code := refuse("authorize", q); code != "" {
			p.respond(w, redirect, q, url.Values{"error": {code}})
			return
		}
	}
	user := p.cfg.Login
	if _, ok := p.cfg.Users[q.Get("login_hint")]; ok && p.cfg.LoginHint {
		user = q.Get("login_hint")
	}
	if q.Get("prompt") == "none" && p.cfg.LoginForm {
		p.respond(w, redirect, q, url.Values{"error": {"login_required"}})
		return
	}
	if p.cfg.LoginForm {
		if r.Method != http.MethodPost {
			p.showForm(w, q, "")
			return
		}
		if r.PostForm.Has("deny") {
			p.respond(w, redirect, q, url.Values{"error": {"access_denied"}, "error_description": {"The user said no."}})
			return
		}
		user = r.PostForm.Get("login")
	}
	if _, ok := p.cfg.Users[user]; !ok {
		p.showForm(w, q, "There is no user of that name.")
		return
	}
	code := p.issue("code-" + randomText())
	audience := q["resource"]
	if a := q.Get("audience"); a != "" {
		audience = append(audience, a)
	}
	p.mu.Lock()
	p.codes[code] = &grant{
		client: q.Get("client_id"), redirectURI: q.Get("redirect_uri"), challenge: q.Get("code_challenge"),
		nonce: q.Get("nonce"), scopes: strings.Fields(q.Get("scope")), audience: audience, user: user, sid: "sid-" + randomText(),
		expires: p.cfg.Now().Add(time.Minute),
	}
	p.mu.Unlock()
	p.respond(w, redirect, q, url.Values{"code": {code}})
}

func checkRequest(q url.Values) string {
	switch {
	case q.Get("response_type") != "code":
		return "response_type must be code"
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		return "PKCE with S256 is required"
	case q.Get("state") == "" || q.Get("nonce") == "":
		return "state and nonce are required"
	default:
		return ""
	}
}

// formPost has the browser post the response (OAuth 2.0 Form Post Response
// Mode section 5).
var formPost = template.Must(template.New("form_post").Parse(`<!DOCTYPE html><title>Submit</title><body onload="document.forms[0].submit()">
<form method="post" action="{{.Action}}">{{range $name, $values := .Fields}}{{range $values}}
<input type="hidden" name="{{$name}}" value="{{.}}"/>{{end}}{{end}}</form>`))

// respond sends the browser back, with state and iss (RFC 9207).
func (p *Provider) respond(w http.ResponseWriter, to *url.URL, request, response url.Values) {
	response.Set("state", request.Get("state"))
	response.Set("iss", p.URL)
	if change := p.fault().Callback; change != nil {
		change(response)
	}
	if request.Get("response_mode") == "form_post" {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_ = formPost.Execute(w, map[string]any{"Action": to.String(), "Fields": response})
		return
	}
	q := to.Query()
	for name, values := range response {
		q[name] = values
	}
	to.RawQuery = q.Encode()
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusSeeOther)
}

// issue remembers a secret, so that tests can search for it.
func (p *Provider) issue(secret string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.issued = append(p.issued, secret)
	return secret
}
