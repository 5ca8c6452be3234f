package main

// compare is the main question: what does a request cost with pkce_auth, beside
// the same Caddy without it that carries the same bytes?
func compare(b *bench) error {
	return b.during(func() error {
		bare, err := b.caddy(bareCaddy, toUpstream)
		if err != nil {
			return err
		}
		ours, err := b.caddy(ourCaddy, protected("cookie"))
		if err != nil {
			return err
		}
		b.tokensOf(2000)
		sessions, err := b.logins(ours, 1)
		if err != nil {
			return err
		}
		subjects := []*subject{
			newSubject("bare", bare, plainPath, []string{""}),
			newSubject("cookie", ours, tokenPath, asSessions(sessions)),
		}
		samples, err := b.rounds(subjects, 16)
		if err != nil {
			return err
		}
		for _, s := range subjects {
			b.report.add(spreadOf(each(samples[s], sample.perRequest)).as("compare", s.name, "CPU µs"))
		}
		return nil
	})
}

// protected are the directives of a site with pkce_auth and sessions in that
// store.
func protected(store string) string {
	options := ""
	if store == "redis" {
		options = " {\n\t\t\taddress $REDIS\n\t\t}"
	}
	return `
	pkce_auth {
		issuer $OP
		client_id bench
		scopes ` + scopes + `
		audience ` + audience + `
		session ` + store + options + `
	}
` + toUpstream
}
