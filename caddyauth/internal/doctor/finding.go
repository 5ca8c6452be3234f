// Package doctor asks a provider itself whether a configuration can work with
// it, before the first user does, and says what to change.
//
// It calls nobody but the provider, changes nothing there, and says nothing
// secret. What it cannot find out without a login it does not claim.
package doctor

// Severity is how bad a finding is.
type Severity string

// The severities. Only Error makes the command fail.
const (
	OK      Severity = "ok"      // asked, and found right
	Note    Severity = "note"    // worth knowing: nothing has to change
	Warning Severity = "warning" // works, but not as well, or not for everybody
	Error   Severity = "error"   // nobody can log in, or not safely
	Skipped Severity = "skipped" // cannot be told, because of another finding
)

// Finding is what one check found.
type Finding struct {
	Check    Check    `json:"check"`
	Severity Severity `json:"severity"`

	// What is so, in plain words, with what the provider says of it.
	Says string `json:"says"`

	// What to write instead, as a line of the Caddyfile or as what to change at
	// the provider; empty where nothing has to change.
	Change string `json:"change,omitempty"`

	// The option of the Caddyfile that it is about; empty if none.
	Option string `json:"option,omitempty"`
}

// Check names a check. The names are a closed list, for scripts read them.
type Check string
