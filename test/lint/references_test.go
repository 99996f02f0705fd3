package lint

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheTestsThatASecurityClaimNamesAreThere: docs/security.md says of each claim which test shows it.
func TestTheTestsThatASecurityClaimNamesAreThere(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`\[(Test\w+)\]\(\.\./([\w/]+_test\.go)\)`).FindAllStringSubmatch(string(page), -1)
	if named := len(regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(page), -1)); len(links) == 0 || named != len(links) {
		t.Errorf("%d tests are named, %d of them with their file", named, len(links))
	}
	for _, l := range links {
		name, file := l[1], l[2]
		source, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(source), "\nfunc "+name+"(t *testing.T) {") {
			t.Errorf("%s has no %s", file, name)
		}
	}
}
