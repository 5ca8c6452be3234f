// Package storetest is the conformance of session stores: what every store of
// the namespace `pkce_auth.sessions` passes.
package storetest
