package keys

import (
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
)

// ParseRecipient is that of Prompts which ask nothing.
func ParseRecipient(text string) (age.Recipient, string, error) {
	return Prompts{}.ParseRecipient(text)
}

// ParseRecipient reads whom a bundle can be wrapped for, and says of which
// kind that is: age1pq1... and age1... (KindIdentity), a public SSH key of
// type ed25519 or RSA as it stands in a .pub file (KindSSH), or age1NAME1...
// of a plugin (KindPlugin and the name), which must be installed: ErrPlugin.
// It wraps ErrFormat if text is none of these.
func (p Prompts) ParseRecipient(text string) (age.Recipient, string, error) {
	text = strings.TrimSpace(text)
	r, kind, err := p.parseRecipient(text)
	if err != nil {
		return nil, "", fmt.Errorf("read recipient%s: %w", quoted(text), err)
	}
	return r, kind, nil
}

// quoted is the beginning of what is meant as a recipient. Anything else may
// be a secret.
func quoted(text string) string {
	if strings.HasPrefix(text, "age1") || strings.HasPrefix(text, "ssh-") {
		return fmt.Sprintf(" %.20q", text)
	}
	return ""
}

func (p Prompts) parseRecipient(text string) (age.Recipient, string, error) {
	var r age.Recipient
	var err error
	kind := KindIdentity
	switch name, _, perr := plugin.ParseRecipient(text); {
	case strings.HasPrefix(text, "age1pq1"):
		r, err = age.ParseHybridRecipient(text)
	case strings.HasPrefix(text, "ssh-"):
		kind = KindSSH
		r, err = agessh.ParseRecipient(text)
	case perr == nil:
		if err := findPlugin(name); err != nil {
			return nil, "", err
		}
		kind = KindPlugin + name
		r, err = plugin.NewRecipient(text, p.ui())
	case strings.HasPrefix(text, "age1"):
		r, err = age.ParseX25519Recipient(text)
	default:
		return nil, "", malformed("neither age1... nor a public SSH key")
	}
	if err != nil {
		return nil, "", malformed("no %s", what(kind))
	}
	return r, kind, nil
}

func what(kind string) string {
	if kind == KindSSH {
		return "public SSH key of type ed25519 or RSA"
	}
	return "recipient of age"
}
