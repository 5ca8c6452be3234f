package main

import (
	"encoding/base64"
	"strings"
)

const cookieTable = "cookies"

// cookies says how many bytes a login has the browser keep.
func cookies(b *bench) error {
	f, err := b.fleet(cookieTable)
	if err != nil {
		return err
	}
	limits := map[int]float64{800: 1000, 2000: 1900, 6000: 4100}
	for _, s := range f.stores {
		for _, size := range tokenSizes {
			got, tokens := s.logins[size].bytes, s.tokens[size]
			subject := s.store + " " + kB(size)
			cell := func(measure string, value int) figure {
				return figure{Scenario: cookieTable, Subject: subject, Measure: measure, Value: float64(value)}
			}
			lines, count := cell("Set-Cookie B", got.lines), cell("cookies", got.cookies)
			pair := cell("name=value B", got.pairs)
			if s.store == "cookie" {
				lines = lines.wanting(limits[size], "Set-Cookie at most %s", kB(int(limits[size])))
				count = count.wanting(1, "always one cookie")
			} else {
				pair = pair.wanting(150, "tickets at most 150 B")
			}
			b.report.add(cell("access token B", len(tokens[0])), cell("ID token B", len(tokens[1])), count, pair, lines, cell("logout hint B", got.hint))
		}
	}
	b.report.note(cookieTable, "on plain HTTP; on HTTPS the prefix __Host-Http- and Secure make a line 20 bytes longer")
	return nil
}

// payload is what a JWT says, empty if it is none.
func payload(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	return string(text)
}
