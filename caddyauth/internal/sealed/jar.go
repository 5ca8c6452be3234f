package sealed

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ErrNoCookie says that a request carries no cookie that opens.
var ErrNoCookie = errors.New("no cookie of ours")

// TooLargeError says that a value does not fit the cookies it may use.
type TooLargeError struct {
	Size  int // of all cookies it would take, names and values, in bytes
	Limit int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("needs %d bytes of cookies, %d are the limit", e.Size, e.Limit)
}

// Jar carries one sealed value in a cookie, or in several when it is long:
// "name" holds "<count>.<first part>", "name.1" the next part. It is one
// seal over all parts, and the count is authenticated with it, so that parts
// of two values never make a third (A65).
//
// Its methods take cookies as the lines of a request's Cookie header, and are
// safe for concurrent use.
type Jar struct {
	Cookie    Cookie
	Box       *Box
	MaxChunks int // at most 9
}

// MaxTries is how many values of one name are tried in one request: with a
// planted cookie or two the right one is still found, and a flood of them
// costs no more (A62).
const MaxTries = 8

// Write seals the value and adds the cookies to the response. Parts of an
// earlier, longer value that the request carried are deleted.
func (j *Jar) Write(h http.Header, cookies []string, value []byte, maxAge time.Duration) error {
	room := MaxCookieSize - len(j.Name(1)) - len("9.")
	size := TextSize(len(value))
	count := (size + room - 1) / room
	if count > j.MaxChunks {
		return &TooLargeError{Size: size + count*(len(j.Name(1))+1), Limit: j.MaxChunks * MaxCookieSize}
	}
	text, err := j.Box.Seal(value, strconv.Itoa(count))
	if err != nil {
		return err
	}
	for i := range count {
		part := text[:min(room, len(text))]
		text = text[len(part):]
		if i == 0 && count > 1 {
			part = strconv.Itoa(count) + "." + part
		}
		j.cookie(i).Set(h, part, maxAge)
	}
	j.deleteFrom(h, cookies, count)
	return nil
}

// Read opens the value that the cookies carry. The error is ErrNoCookie when
// there is none, ErrKeys when that cannot be told.
func (j *Jar) Read(cookies []string) ([]byte, error) {
	for n := range MaxTries {
		first, ok := Value(cookies, j.Cookie.Name, n)
		if !ok {
			break
		}
		value, _, err := j.Open(cookies, first)
		if err == nil || !errors.Is(err, ErrOpen) {
			return value, err
		}
	}
	return nil, ErrNoCookie
}

// Open opens the value whose first part is first, with the further parts
// among the cookies. It returns those, too.
func (j *Jar) Open(cookies []string, first string) (value []byte, rest []string, err error) {
	count, text := j.Split(first)
	if count == 0 {
		return nil, nil, ErrOpen
	}
	for n := range MaxTries {
		whole := text
		rest = rest[:0]
		for i := 1; i < count; i++ {
			part, ok := Value(cookies, j.Name(i), n)
			if !ok && n > 0 { // one of several, the others may stand once
				part, ok = Value(cookies, j.Name(i), 0)
			}
			if !ok {
				return nil, nil, ErrOpen
			}
			whole += part
			rest = append(rest, part)
		}
		value, err = j.Box.Open(whole, strconv.Itoa(count))
		if err == nil || count == 1 || !errors.Is(err, ErrOpen) {
			return value, rest, err
		}
	}
	return nil, nil, ErrOpen
}

// Split gives the number of cookies that a value takes, from its first part,
// and what of the text stands there. The number is 0 when it is not one that
// Write makes: it comes from the client and bounds nothing before the seal
// has verified but the loop in Open.
func (j *Jar) Split(first string) (count int, text string) {
	digits, rest, ok := strings.Cut(first, ".")
	if !ok {
		return 1, first
	}
	count, err := strconv.Atoi(digits)
	if err != nil || count < 2 || count > j.MaxChunks || digits != strconv.Itoa(count) {
		return 0, ""
	}
	return count, rest
}

// Delete tells the browser to drop the cookies of ours that the request
// carried.
func (j *Jar) Delete(h http.Header, cookies []string) { j.deleteFrom(h, cookies, 0) }

func (j *Jar) deleteFrom(h http.Header, cookies []string, from int) {
	for i := from; i < j.MaxChunks; i++ {
		if _, ok := Value(cookies, j.Name(i), 0); ok {
			j.cookie(i).Delete(h)
		}
	}
}

func (j *Jar) cookie(i int) Cookie {
	c := j.Cookie
	c.Name = j.Name(i)
	return c
}

// Name gives the name of the i-th cookie of the value.
func (j *Jar) Name(i int) string {
	if i == 0 {
		return j.Cookie.Name
	}
	return j.Cookie.Name + "." + strconv.Itoa(i)
}
