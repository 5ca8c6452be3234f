package redisstore

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// option is one line of the block.
type option struct {
	usage      string // what stands behind the name
	repeatable bool
	parse      func(s *Sessions, args []string) bool // false: not as the usage says
}

var options = map[string]option{
	"address":           {usage: "<host:port>…", repeatable: true, parse: parseAddress},
	"username":          {usage: "<name>", parse: text1(func(s *Sessions) *string { return &s.Username })},
	"password":          {usage: "{env.NAME}|{file./path}", parse: text1(func(s *Sessions) *string { return &s.Password })},
	"db":                {usage: "<number>", parse: parseDB},
	"tls":               {usage: "[{ ca <file> / client_cert <certificate file> <key file> / server_name <name> }]", parse: parseTLS},
	"sentinel":          {usage: "<master>", parse: text1(func(s *Sessions) *string { return &s.sentinel().Master })},
	"sentinel_username": {usage: "<name>", parse: text1(func(s *Sessions) *string { return &s.sentinel().Username })},
	"sentinel_password": {usage: "{env.NAME}|{file./path}", parse: text1(func(s *Sessions) *string { return &s.sentinel().Password })},
	"cluster":           {parse: parseCluster},
	"key_prefix":        {usage: "<prefix>", parse: text1(func(s *Sessions) *string { return &s.KeyPrefix })},
}

// tlsOptions are those of the tls block, with the number of their arguments.
var tlsOptions = map[string]option{
	"ca":          {usage: "<file>", parse: text1(func(s *Sessions) *string { return &s.TLS.CA })},
	"client_cert": {usage: "<certificate file> <key file>", parse: parseClientCert},
	"server_name": {usage: "<name>", parse: text1(func(s *Sessions) *string { return &s.TLS.ServerName })},
}

// UnmarshalCaddyfile reads
//
//	redis {
//		address           <host:port>…
//		username          <name>
//		password          {env.NAME}|{file./path}
//		db                <number>
//		tls [{
//			ca          <file>
//			client_cert <certificate file> <key file>
//			server_name <name>
//		}]
//		sentinel          <master>
//		sentinel_username <name>
//		sentinel_password {env.NAME}|{file./path}
//		cluster
//		key_prefix        <prefix>
//	}
func (s *Sessions) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.Errf("redis takes no argument: write address %s in its block", d.Val())
	}
	redis := d.Token()
	given := make(map[string]caddyfile.Token)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if err := s.parseOption(d, options, given); err != nil {
			return err
		}
		if name == "tls" {
			if err := s.parseTLSBlock(d); err != nil {
				return err
			}
		}
	}
	err := s.validate()
	if wrong, ok := errors.AsType[*configError](err); ok {
		token, ok := given[wrong.option]
		if !ok {
			token = redis
		}
		at := caddyfile.NewDispenser([]caddyfile.Token{token})
		at.Next()
		return at.Errf("redis: %v", err)
	}
	return err
}

func (s *Sessions) parseTLSBlock(d *caddyfile.Dispenser) error {
	given := make(map[string]caddyfile.Token)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := s.parseOption(d, tlsOptions, given); err != nil {
			return err
		}
	}
	return nil
}

// parseOption reads one line.
func (s *Sessions) parseOption(d *caddyfile.Dispenser, known map[string]option, given map[string]caddyfile.Token) error {
	name := d.Val()
	o, ok := known[name]
	if !ok {
		return d.Errf("redis: unknown option %s; the options are: %s", name, strings.Join(names(known), " "))
	}
	if before, ok := given[name]; ok && !o.repeatable {
		return d.Errf("redis: %s is given twice, first on line %d", name, before.Line)
	}
	given[name] = d.Token()
	if args := d.RemainingArgs(); slices.Contains(args, "") || !o.parse(s, args) {
		return d.Errf("redis: write it as: %s", strings.TrimSpace(name+" "+o.usage))
	}
	return nil
}

func names(known map[string]option) []string {
	list := make([]string, 0, len(known))
	for name := range known {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func text1(into func(*Sessions) *string) func(*Sessions, []string) bool {
	return func(s *Sessions, args []string) bool {
		if len(args) != 1 {
			return false
		}
		*into(s) = args[0]
		return true
	}
}

func parseAddress(s *Sessions, args []string) bool {
	s.Addresses = append(s.Addresses, args...)
	return len(args) > 0
}

func parseDB(s *Sessions, args []string) bool {
	if len(args) != 1 {
		return false
	}
	n, err := strconv.ParseUint(args[0], 10, 31)
	s.DB = int(n)
	return err == nil
}

func parseTLS(s *Sessions, args []string) bool {
	s.TLS = new(TLS)
	return len(args) == 0
}

func parseClientCert(s *Sessions, args []string) bool {
	if len(args) != 2 {
		return false
	}
	s.TLS.Certificate, s.TLS.Key = args[0], args[1]
	return true
}

func parseCluster(s *Sessions, args []string) bool {
	s.Cluster = true
	return len(args) == 0
}

// sentinel returns the part about Sentinels, made when the first of its options
// comes.
func (s *Sessions) sentinel() *Sentinel {
	if s.Sentinel == nil {
		s.Sentinel = new(Sentinel)
	}
	return s.Sentinel
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Sessions)(nil)
