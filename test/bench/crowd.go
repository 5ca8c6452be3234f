package main

import "fmt"

// crowd is a proxy with many sessions: to log them in takes longer than what is
// measured with them, so that scenarios share one of each kind.
type crowd struct {
	*proxy
	name    string // the store, or that it is bare
	path    string
	length  int      // of the cookies that mean nothing, for bare Caddy
	headers []string // of requests with the sessions
}

// crowdsToCompare are bare Caddy, and one with each kind of session, in processes of
// their own, which nothing else is measured with but by who knows that they have
// many sessions. They last as long as the bench.
func (b *bench) crowdsToCompare(scenario string) ([]*crowd, error) {
	f, err := b.fleet(scenario)
	if err != nil || b.last.crowds != nil {
		return b.last.crowds, err
	}
	err = b.lasting(func() error {
		p, err := b.caddy(bareCaddy, toUpstream)
		if err != nil {
			return err
		}
		crowds := []*crowd{{proxy: p, name: bareName, path: plainPath, length: len(f.stores[0].logins[usualSize].cookie)}}
		for _, s := range f.stores {
			if p, err = b.caddy(ourCaddy, protected(s.store)); err != nil {
				return err
			}
			crowds = append(crowds, &crowd{proxy: p, name: s.store, path: tokenPath})
		}
		b.last.crowds = crowds
		return nil
	})
	return b.last.crowds, err
}

// grow logs in until there are n sessions. Bare Caddy gets as many cookies that mean
// nothing.
func (c *crowd) grow(b *bench, n int) error {
	if n <= len(c.headers) {
		return nil
	}
	if c.name == bareName {
		for i := len(c.headers); i < n; i++ {
			number := fmt.Sprintf("%08d", i)
			c.headers = append(c.headers, "Cookie: "+filler(c.length-len(number))+number+"\r\n")
		}
		return nil
	}
	b.logf("%d sessions in %s", n, c.name)
	b.manyTokensOf(usualSize)
	made, err := b.logins(c.proxy, n-len(c.headers))
	c.headers = append(c.headers, asSessions(made)...)
	return err
}

// subject is requests with n of the sessions, in rotation.
func (c *crowd) subject(n int) *subject {
	return newSubject(fmt.Sprint(c.name, ", ", n, " sessions"), c.proxy, c.path, c.headers[:n])
}
