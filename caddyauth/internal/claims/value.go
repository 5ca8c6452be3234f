package claims

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// List is a claim that is an array. It works as a list in CEL
// ("admin" in {http.auth.user.groups}) and, being a fmt.Stringer, as text in
// headers and logs.
type List []any

// String joins the members with commas, or gives one JSON array when a member
// contains a comma, a quote or a backslash, so that no member can pass for
// two.
func (l List) String() string {
	texts := make([]string, len(l))
	for i, member := range l {
		texts[i] = Text(member)
		if strings.ContainsAny(texts[i], `,"\`) {
			return toJSON([]any(l))
		}
	}
	return strings.Join(texts, ",")
}

// Object is a claim that is a JSON object.
type Object map[string]any

// String gives the object as JSON, its members sorted by name.
func (o Object) String() string { return toJSON(map[string]any(o)) }

// Text gives a value of Set.Lookup as text: strings as they are, lists and
// objects as their String methods say.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case fmt.Stringer:
		return v.String()
	default:
		return toJSON(v)
	}
}

// value turns what encoding/json decoded into what Lookup promises.
func value(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case []any:
		list := make(List, len(v))
		for i, member := range v {
			list[i] = value(member)
		}
		return list
	case map[string]any:
		object := make(Object, len(v))
		for name, member := range v {
			object[name] = value(member)
		}
		return object
	default:
		return v
	}
}

func toJSON(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // this is for headers and logs, not for a page
	if err := enc.Encode(v); err != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}
