package main

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Parse(pageHTML))

// view is what the page shows of a request. The token itself is not in it:
// no browser ever sees one.
type view struct {
	Name    string
	Groups  string
	URL     string
	Claims  string
	Headers []header
}

type header struct{ Name, Value string }

func describe(r *http.Request, token string) view {
	v := view{
		Name:   r.Header.Get("X-Auth-Name"),
		Groups: strings.ReplaceAll(r.Header.Get("X-Auth-Groups"), ",", ", "),
		URL:    r.RequestURI,
		Claims: claims(token),
	}
	for name, values := range r.Header {
		value := strings.Join(values, ", ")
		if name == "Authorization" {
			value = "Bearer … (the access token, its claims are above)"
		}
		v.Headers = append(v.Headers, header{name, value})
	}
	slices.SortFunc(v.Headers, func(a, b header) int { return strings.Compare(a.Name, b.Name) })
	return v
}

// claims gives the claims of a JWT, indented. A real API verifies the token
// first; this page only shows what is in it.
func claims(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var out bytes.Buffer
	if json.Indent(&out, data, "", "  ") != nil {
		return ""
	}
	return out.String()
}
