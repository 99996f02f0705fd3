package walreceiver

import "testing"

// TestANameIsFoundInSynchronousStandbyNames in all forms that a server takes.
func TestANameIsFoundInSynchronousStandbyNames(t *testing.T) {
	for names, want := range map[string]bool{
		"vault":                    true,
		"VAULT":                    true,
		"*":                        true,
		`"*"`:                      true,
		"a,vault":                  true,
		"1 (a, vault)":             true,
		"FIRST 1 (vault,b)":        true,
		"ANY 1(a ,\"vault\")":      true,
		`ANY 1 ("va""ult", "")`:    false,
		"vault2, my_vault":         false,
		`"vault, a"`:               false,
		"":                         false,
		`"vault`:                   true, // no server takes it
		`FIRST 1 ("x y", "vault")`: true,
	} {
		if got := isNamed(names, "vault"); got != want {
			t.Errorf("%s: %v, want %v", names, got, want)
		}
	}
}
