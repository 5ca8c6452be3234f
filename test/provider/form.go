package provider

import (
	_ "embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
)

//go:embed form.html
var formHTML string

var formPage = template.Must(template.New("form").Parse(formHTML))

// showForm shows the login form. It posts back to the same URL.
func (p *Provider) showForm(w http.ResponseWriter, q url.Values, problem string) {
	users := make([]string, 0, len(p.cfg.Users))
	for user := range p.cfg.Users {
		users = append(users, user)
	}
	slices.Sort(users)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if problem != "" {
		w.WriteHeader(http.StatusBadRequest)
	}
	_ = formPage.Execute(w, map[string]any{
		"Action": "?" + q.Encode(), "Client": q.Get("client_id"), "Scope": q.Get("scope"), "Audience": q.Get("audience"),
		"Users": users, "Problem": problem,
	})
}
