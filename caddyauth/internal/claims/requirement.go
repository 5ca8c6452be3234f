package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Requirement is what a claim must say for somebody to be let in: one of
// several values. It fails closed: whatever is missing, of another type than
// expected, or odd in any way does not meet it.
type Requirement struct {
	claim   string
	values  []string
	toASCII func(domain string) (string, error)
}

// email is the claim whose values are e-mail addresses (OpenID Connect Core
// section 5.1), and verified the one without which it is only what somebody
// said of themselves.
const (
	email    = "email"
	verified = "email_verified"
)

// NewRequirement makes a requirement of a claim, by its path as in Set.Lookup,
// and the values of which any will do. Internationalized domain names are
// compared in the form that toASCII gives them.
func NewRequirement(claim string, values []string, toASCII func(domain string) (string, error)) (Requirement, error) {
	q := Requirement{claim: claim, toASCII: toASCII}
	if claim == "" {
		return q, errors.New("the name of the claim is empty")
	}
	if len(values) == 0 {
		return q, fmt.Errorf("no value of %s is given", claim)
	}
	for _, value := range values {
		if value == "" {
			return q, fmt.Errorf("a value of %s is empty", claim)
		}
		if claim == email {
			address, ok := q.address(strings.TrimPrefix(value, "@"), strings.HasPrefix(value, "@"))
			if !ok {
				return q, fmt.Errorf("%q is neither an e-mail address nor a domain: write me@example.com, or @example.com for a whole domain", value)
			}
			value = address
		}
		if slices.Contains(q.values, value) {
			return q, fmt.Errorf("%s is given twice for %s", value, claim)
		}
		q.values = append(q.values, value)
	}
	return q, nil
}

// Claim is the path of the claim that the requirement is about.
func (q *Requirement) Claim() string { return q.claim }

// Equal reports whether two requirements say the same.
func (q *Requirement) Equal(other Requirement) bool {
	return q.claim == other.claim && len(q.values) == len(other.values) &&
		!slices.ContainsFunc(q.values, func(value string) bool { return !slices.Contains(other.values, value) })
}

// MetBy reports whether the claims meet the requirement. A text, a number or a
// boolean must be one of the values, a list must have a member that is, and an
// object one that is named so and whose own value is not empty: an object is
// how some providers write a set. A claim that is missing, or null, meets
// nothing.
func (q *Requirement) MetBy(s Set) bool {
	v, ok := lookup(s.all(), q.claim)
	if !ok {
		return false
	}
	if q.claim == email {
		return q.metByEmail(s, v)
	}
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, q.hasScalar)
	case map[string]any:
		return slices.ContainsFunc(q.values, func(name string) bool { return !isEmpty(v[name]) })
	default:
		return q.hasScalar(v)
	}
}

func (q *Requirement) hasScalar(v any) bool {
	text, ok := canonical(v)
	return ok && slices.Contains(q.values, text)
}

// canonical is the one text by which a value can be required. A number of more
// digits than a float64 tells apart has none, unless it is an integer.
func canonical(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		if text := v.String(); !strings.ContainsAny(text, ".eE") && text != "-0" {
			return text, true
		}
		f, err := v.Float64()
		if err != nil || math.Abs(f) >= 1<<53 || f == 0 && math.Signbit(f) {
			return "", false
		}
		return strconv.FormatFloat(f, 'f', -1, 64), true
	default:
		return "", false
	}
}

// isEmpty reports whether a member's value says that the member does not
// count: {"admin":false} names no admin.
func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		f, err := v.Float64()
		return err != nil || f == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	default:
		return true
	}
}

// metByEmail compares an e-mail address. It counts only where the provider says
// that it has verified it, by the boolean (OpenID Connect Core section 5.7
// names no other): anybody can claim to be admin@example.com.
func (q *Requirement) metByEmail(s Set, v any) bool {
	text, _ := v.(string)
	if sure, err := s.Flag(verified); err != nil || !sure {
		return false
	}
	address, ok := q.address(text, false)
	return ok && slices.ContainsFunc(q.values, func(value string) bool {
		return address == value || value[0] == '@' && strings.HasSuffix(address, value)
	})
}

// address brings an e-mail address into the form in which addresses are
// compared: in lower case, as far as it is ASCII, and with the domain's ASCII
// name. What mail servers or people could read in two ways is no address: more
// than one @, quotes, comments, spaces, a dot at the end. Of a domain alone,
// it gives "@" and the domain.
func (q *Requirement) address(text string, domainOnly bool) (string, bool) {
	local, domain := "", text
	if !domainOnly {
		var ok bool
		if local, domain, ok = strings.Cut(text, "@"); !ok || local == "" {
			return "", false
		}
	}
	odd := func(r rune) bool {
		return r <= ' ' || 0x7f <= r && r <= 0xa0 || strings.ContainsRune(`()<>[]:;@\,"`, r) || r == '\uFFFD'
	}
	if domain == "" || len(text) > 320 || strings.HasPrefix(domain, ".") || strings.HasSuffix(domain, ".") || strings.ContainsFunc(local, odd) || strings.ContainsFunc(domain, odd) {
		return "", false
	}
	domain = lowerASCII(domain)
	if strings.ContainsFunc(domain, func(r rune) bool { return r > 0x7f }) {
		if q.toASCII == nil {
			return "", false
		}
		ascii, err := q.toASCII(domain)
		if err != nil || strings.ContainsFunc(ascii, func(r rune) bool { return r > 0x7f }) {
			return "", false
		}
		domain = lowerASCII(ascii)
	}
	return lowerASCII(local) + "@" + domain, true
}

// lowerASCII folds the letters A to Z only. Unicode folds more into them: the
// Kelvin sign into k.
func lowerASCII(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}, text)
}
