package caddyauth

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The words by which a request fails are a closed list, which is documented: a
// site's own error pages, and alerts, hang on them.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(page), "\n## Why a request failed\n")
	found := map[reason]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9, ]+) \\|").FindAllStringSubmatch(list, -1) {
		found[reason(row[1])] = row[2]
	}
	for why := range reasonLevels {
		status := statuses[why]
		if said := found[why]; !strings.HasPrefix(said, strconv.Itoa(status)) {
			t.Errorf("%s is said to be answered with %q, and is with %d", why, said, status)
		}
		delete(found, why)
	}
	for why := range found {
		t.Errorf("%s is documented, and does not exist", why)
	}
}
