package redisstore

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func parse(text string) (*Sessions, error) {
	s := new(Sessions)
	return s, s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
}

func TestCaddyfile(t *testing.T) {
	for text, want := range map[string]string{
		"redis {\n address redis:6379\n}": `{"addresses":["redis:6379"]}`,

		"redis {\n address a:1 b:2\n address [::1]:3\n cluster\n}": `{"addresses":["a:1","b:2","[::1]:3"],"cluster":true}`,

		"redis {\n address {env.REDIS}\n username caddy\n password {file./run/password}\n db 3\n key_prefix site:\n tls\n}": `{"addresses":["{env.REDIS}"],"username":"caddy","password":"{file./run/password}","db":3,"tls":{},"key_prefix":"site:"}`,

		"redis {\n address a:26379\n sentinel main\n sentinel_username watcher\n sentinel_password {env.P}\n}": `{"addresses":["a:26379"],"sentinel":{"master":"main","username":"watcher","password":"{env.P}"}}`,

		"redis {\n address a:1\n tls {\n  ca ca.pem\n  client_cert c.pem k.pem\n  server_name redis\n }\n key_prefix x:\n}": `{"addresses":["a:1"],"tls":{"ca":"ca.pem","certificate":"c.pem","key":"k.pem","server_name":"redis"},"key_prefix":"x:"}`,
	} {
		s, err := parse(text)
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if got, _ := json.Marshal(s); string(got) != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

// A mistake is named with its line, and with what to write.
func TestA122CaddyfileMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"redis":                         "address: is missing: say where Redis is, as in address redis:6379, at Testfile:1",
		"redis {\n}":                    "address: is missing",
		"redis a:1":                     "redis takes no argument: write address a:1 in its block",
		"redis {\n adr a:1\n}":          "unknown option adr; the options are: address cluster db key_prefix password sentinel sentinel_password sentinel_username tls username, at Testfile:2",
		"redis {\n address\n}":          "write it as: address <host:port>…, at Testfile:2",
		"redis {\n address \"\"\n}":     "write it as: address <host:port>…",
		"redis {\n address a\n}":        "a is not host:port",
		"redis {\n address :6379\n}":    "is not host:port",
		"redis {\n address a:0\n}":      "has no port that there can be",
		"redis {\n address a:70000\n}":  "has no port that there can be",
		"redis {\n address a:1 a:1\n}":  "a:1 stands twice",
		"redis {\n address unix//s\n}":  "is a Unix socket, which is not supported",
		"redis {\n address /run/r.s\n}": "is a Unix socket, which is not supported",

		"redis {\n address redis://a:1\n}":               "address: is a URL: write a:1, at Testfile:2",
		"redis {\n address rediss://a\n}":                "address: is a URL: write a:6379, and the option tls, at",
		"redis {\n address rediss://u:secret@a:1/0?x\n}": "address: is a URL: write a:1, and the option tls, and what stands before the @ as username and password, at",
		"redis {\n address redis://\n}":                  "address: is a URL: write host:port, as in redis:6379",
		"redis {\n address {http.request.host}:1\n}":     "placeholder {http.request.host} cannot be used here, only {env.NAME} and {file./path}, at Testfile:2",

		"redis {\n address a:1\n password {query.p}\n}":                         "password: placeholder {query.p} cannot be used here, only {env.NAME} and {file./path}, at Testfile:3",
		"redis {\n address a:1\n username {http.vars.u}\n}":                     "username: placeholder {http.vars.u} cannot be used here",
		"redis {\n address a:1\n username u\n}":                                 "username: has no password: add password",
		"redis {\n address a:1\n password a b\n}":                               "write it as: password {env.NAME}|{file./path}",
		"redis {\n address a:1\n password {env.A}\n password {env.A}\n}":        "password is given twice, first on line 3, at Testfile:4",
		"redis {\n address a:1\n db x\n}":                                       "write it as: db <number>",
		"redis {\n address a:1\n db -1\n}":                                      "write it as: db <number>",
		"redis {\n address a:1\n db 1\n cluster\n}":                             "db: a cluster has one database only: remove db, at Testfile:3",
		"redis {\n address a:1 b:1\n db 1\n}":                                   "db: several addresses are those of a cluster",
		"redis {\n address a:1\n sentinel m\n cluster\n}":                       "cluster: a cluster has no Sentinels: write either cluster or sentinel, at Testfile:4",
		"redis {\n address a:1\n cluster yes\n}":                                "write it as: cluster, at",
		"redis {\n address a:1\n sentinel\n}":                                   "write it as: sentinel <master>",
		"redis {\n address a:1\n sentinel_password {env.P}\n}":                  "sentinel: write the name of the master",
		"redis {\n address a:1\n sentinel m\n sentinel_username u\n}":           "sentinel_username: has no password: add sentinel_password, at Testfile:4",
		"redis {\n address a:1\n sentinel m\n sentinel_password {vars.p}\n}":    "sentinel_password: placeholder {vars.p} cannot be used here",
		"redis {\n address a:1\n key_prefix {x}\n}":                             `key_prefix: "{x}" may hold letters, digits and : . _ - / only, at most 64, at Testfile:3`,
		"redis {\n address a:1\n tls yes\n}":                                    "write it as: tls [{ ca <file>",
		"redis {\n address a:1\n tls {\n insecure_skip_verify\n }\n}":           "unknown option insecure_skip_verify; the options are: ca client_cert server_name, at Testfile:4",
		"redis {\n address a:1\n tls {\n client_cert c.pem\n }\n}":              "write it as: client_cert <certificate file> <key file>",
		"redis {\n address a:1\n tls {\n ca a\n ca b\n }\n}":                    "ca is given twice, first on line 4, at Testfile:5",
		"redis {\n address a:1\n tls {\n ca {http.request.uri}\n }\n}":          "tls: placeholder {http.request.uri} cannot be used here, only {env.NAME} and {file./path}, at Testfile:3",
		"redis {\n address a:1\n tls\n tls\n}":                                  "tls is given twice",
		"redis {\n address a:1\n key_prefix " + strings.Repeat("x", 65) + "\n}": "at most 64",
	} {
		_, err := parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v says a password", err)
		}
	}
}

// Whatever is written: no panic, and what is accepted is accepted as JSON, too.
func FuzzCaddyfile(f *testing.F) {
	f.Add("redis {\n address a:1 b:2\n tls {\n ca x\n }\n db 3\n}")
	f.Add("redis {\n address rediss://u:p@a:1/0\n sentinel m\n}")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := caddyfile.Tokenize([]byte(text), "Testfile")
		if err != nil {
			return
		}
		s := new(Sessions)
		if s.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)) != nil {
			return
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again := new(Sessions)
		if err := json.Unmarshal(data, again); err != nil || again.validate() != nil {
			t.Errorf("%q became %s, which is refused: %v, %v", text, data, err, again.validate())
		}
	})
}
