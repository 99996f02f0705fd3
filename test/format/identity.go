package format

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"strconv"
	"strings"

	"filippo.io/age"
)

// ParseIdentityFile is sections 5.3 and 5.4, but for SSH keys. root is nil where the file names none.
func ParseIdentityFile(text string) (ids []age.Identity, root ed25519.PublicKey, err error) {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if key, ok := strings.CutPrefix(line, "# repository root: "); ok {
			if root, err = base64.StdEncoding.DecodeString(key); err != nil || len(root) != 32 {
				return nil, nil, damaged("root key %q", key)
			}
		}
		if line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	if len(lines) > 0 && lines[0][0] >= '0' && lines[0][0] <= '9' {
		for _, prefix := range []string{"AGE-SECRET-KEY-PQ-1", "AGE-SECRET-KEY-1"} {
			if id, root, ok := parsePaper(prefix, lines); ok {
				ids, err = age.ParseIdentities(strings.NewReader(prefix + strings.ToUpper(id)))
				return ids, root, err
			}
		}
		return nil, nil, damaged("a mistyped paper copy")
	}
	ids, err = age.ParseIdentities(strings.NewReader(strings.Join(lines, "\n")))
	return ids, root, err
}

// parsePaper takes the lines of a paper copy apart; ok: they are those of an identity of that prefix.
func parsePaper(prefix string, lines []string) (id string, root ed25519.PublicKey, ok bool) {
	alphabet := base32.NewEncoding("qpzry9x8gf2tvdw0s3jn54khce6mua7l").WithPadding(base32.NoPadding)
	typed := func(c rune) rune {
		switch {
		case c == 'o':
			return '0'
		case c == 'i' || c == '1':
			return 'l'
		case c == 'b':
			return '8'
		case (c < 'a' || c > 'z') && (c < '0' || c > '9'):
			return -1
		}
		return c
	}
	lengths := []int{20, 20, 18, 20, 20, 12}
	if len(lines) != 3 && len(lines) != 6 {
		return "", nil, false
	}
	var chars string
	for i, line := range lines {
		end := strings.IndexAny(line, ":.) ")
		if end < 0 || line[:end] != strconv.Itoa(i+1) {
			return "", nil, false
		}
		line = strings.Map(typed, strings.ToLower(line[end+1:]))
		if len(line) != lengths[i]+4 {
			return "", nil, false
		}
		line, check := line[:lengths[i]], line[lengths[i]:]
		sum := sha256.Sum256(labelled("pgtrove v1 paper line", prefix, strconv.Itoa(i+1), strconv.Itoa(len(lines)), line))
		if alphabet.EncodeToString(sum[:])[:4] != check {
			return "", nil, false
		}
		chars += line
	}
	if len(chars) == 58 {
		return chars, nil, true
	}
	root, err := alphabet.DecodeString(chars[58:])
	return chars[:58], root, err == nil
}
