package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"filippo.io/age"
)

// A paper copy has three lines of an identity and, if the file names the root
// key of its repository, three lines of that.
const (
	paperAlphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l" // Bech32's: without 1, b, i, o
	paperLine     = 20                                 // characters of a line, of which the last may have fewer
	paperGroup    = 5
	paperCheck    = 4 // characters
	paperPart     = 3 // lines of an identity, and of a root key

)

// labelPaper begins what the check of a line is made of.
const labelPaper = "pgtrove v1 paper line"

// Paper is what stands on a paper copy besides the identity. What is empty is
// left out.
type Paper struct {
	Repository string // ID
	Location   string // where the repository is
	Name       string // of the key
	Role       Role
	Created    time.Time // when the key was made
}

// PaperText is the text to print of an identity file: what it is for, and the
// identity in lines that can be typed again, each with a check of its own.
// ParseIdentityFile reads the lines. It wraps ErrFormat if the file does not
// hold exactly one identity of age itself.
func PaperText(file []byte, about Paper) (string, error) {
	f, err := ParseIdentityFile(file)
	if err != nil {
		return "", fmt.Errorf("make paper copy: %w", err)
	}
	if len(f.Identities) != 1 {
		return "", fmt.Errorf("make paper copy: %w: %d identities in the file, a copy is of one", ErrFormat, len(f.Identities))
	}
	prefix, text := "", ""
	switch id := f.Identities[0].(type) {
	case *age.HybridIdentity:
		prefix, text = prefixHybrid, id.String()
	case *age.X25519Identity:
		prefix, text = prefixX25519, id.String()
	default:
		return "", fmt.Errorf("make paper copy: %w: only an identity of age itself can be copied, no SSH key and none of a plugin", ErrFormat)
	}
	lines := cutLines(strings.ToLower(text[len(prefix):]))
	if f.Root != nil {
		lines = append(lines, cutLines(paperEncoding().EncodeToString(f.Root))...)
	}
	var t strings.Builder
	about.head(&t, prefix, len(lines))
	for i, line := range lines {
		t.WriteString(showLine(i+1, line, lineCheck(prefix, i+1, len(lines), line)))
	}
	return t.String(), nil
}

func paperEncoding() *base32.Encoding {
	return base32.NewEncoding(paperAlphabet).WithPadding(base32.NoPadding)
}

// head writes everything above the lines, as comments, so that the whole
// sheet can be typed or pasted.
func (p *Paper) head(t *strings.Builder, prefix string, lines int) {
	t.WriteString("# pgtrove: paper copy of an identity\n#\n")
	t.WriteString("# Whoever can read this sheet can open the repository. Keep it like the key of a safe.\n#\n")
	created := ""
	if !p.Created.IsZero() {
		created = p.Created.UTC().Format(time.DateOnly)
	}
	for _, field := range [][2]string{
		{"Repository", p.Repository}, {"Stored in", p.Location}, {"Key", p.Name}, {"Role", string(p.Role)}, {"Made", created},
	} {
		if field[1] != "" {
			fmt.Fprintf(t, "# %-12s%s\n", field[0], strings.Map(printable, field[1]))
		}
	}
	t.WriteString("#\n# To use it, type the numbered lines into a file, numbers and all, and give pgtrove that\n")
	t.WriteString("# file as --key-file. Upper and lower case and spaces do not matter. The letters B, I, O\n")
	t.WriteString("# and the digit 1 do not occur. What is behind \"=\" checks its line, so a mistake is told.\n#\n")
	fmt.Fprintf(t, "# Without pgtrove: %s and lines 1 to %d, without\n", prefix, paperPart)
	t.WriteString("# numbers, spaces and checks, in capitals and in one line, is an identity of age.\n")
	if lines > paperPart {
		fmt.Fprintf(t, "# Lines %d to %d are the public root key of the repository.\n", paperPart+1, lines)
	}
	t.WriteString("#\n")
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

func cutLines(chars string) []string {
	var lines []string
	for part := range slices.Chunk([]byte(chars), paperLine) {
		lines = append(lines, string(part))
	}
	return lines
}

func showLine(number int, line, check string) string {
	var groups []string
	for g := range slices.Chunk([]byte(strings.ToUpper(line)), paperGroup) {
		groups = append(groups, string(g))
	}
	return fmt.Sprintf("%d:  %s  = %s\n", number, strings.Join(groups, " "), strings.ToUpper(check))
}

// lineCheck binds a line to its place, to how many there are, and to the kind
// of identity.
func lineCheck(prefix string, number, total int, line string) string {
	sum := sha256.Sum256(bind(labelPaper, prefix, strconv.Itoa(number), strconv.Itoa(total), line))
	return paperEncoding().EncodeToString(sum[:])[:paperCheck]
}

// isPaper says whether text is one that somebody typed off a paper copy: its
// first line that is no comment begins with a number.
func isPaper(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return line[0] >= '0' && line[0] <= '9'
		}
	}
	return false
}

// typedLine is a line as typed: what it holds, and its check.
type typedLine struct{ chars, check string }

// parsePaper reads the lines of a paper copy. Its errors name lines by the
// numbers on the paper and quote nothing.
func parsePaper(text []byte) (*IdentityFile, error) {
	typed, err := typedLines(text)
	if err != nil {
		return nil, err
	}
	// The kind and the number of lines are those that fit most lines.
	prefix, total, best := "", 0, 0
	for _, p := range []string{prefixHybrid, prefixX25519} {
		for _, n := range []int{paperPart, 2 * paperPart} {
			if fit := n - len(unfit(typed, p, n)); fit > best {
				prefix, total, best = p, n, fit
			}
		}
	}
	if best == 0 {
		return nil, malformed("no line of the paper copy is as it was printed")
	}
	if wrong := unfit(typed, prefix, total); len(wrong) > 0 {
		return nil, mistyped(typed, wrong, total)
	}
	if len(typed) > total {
		return nil, malformed("%d lines, and the paper copy has %d", len(typed), total)
	}
	var all [2]strings.Builder
	for n := 1; n <= total; n++ {
		all[(n-1)/paperPart].WriteString(typed[n].chars)
	}
	f := &IdentityFile{}
	id, err := Prompts{}.parseIdentity(prefix + strings.ToUpper(all[0].String()))
	if err != nil {
		return nil, malformed("lines 1 to %d of the paper copy are not of one identity", paperPart)
	}
	f.Identities = []age.Identity{id}
	if total > paperPart {
		root, err := paperEncoding().DecodeString(all[1].String())
		if err != nil || len(root) != ed25519.PublicKeySize {
			return nil, malformed("lines %d to %d of the paper copy are no root key", paperPart+1, total)
		}
		f.Root = root
	}
	return f, nil
}

// unfit are the numbers up to total whose lines are missing or do not fit
// their check.
func unfit(typed map[int]typedLine, prefix string, total int) []int {
	var wrong []int
	for n := 1; n <= total; n++ {
		if l, ok := typed[n]; !ok || l.check != lineCheck(prefix, n, total, l.chars) {
			wrong = append(wrong, n)
		}
	}
	return wrong
}

func mistyped(typed map[int]typedLine, wrong []int, total int) error {
	var missing, other []string
	for _, n := range wrong {
		if _, ok := typed[n]; ok {
			other = append(other, strconv.Itoa(n))
		} else {
			missing = append(missing, strconv.Itoa(n))
		}
	}
	var say []string
	if len(other) > 0 {
		say = append(say, "mistyped: line "+strings.Join(other, ", line "))
	}
	if len(missing) > 0 {
		say = append(say, "missing: line "+strings.Join(missing, ", line "))
	}
	return malformed("of the %d lines of the paper copy, %s", total, strings.Join(say, "; "))
}

// typedLines are the lines of a paper copy by their numbers.
func typedLines(text []byte) (map[int]typedLine, error) {
	typed := map[int]typedLine{}
	for at, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.IndexFunc(line, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 || !strings.ContainsRune(":.) \t", rune(line[end])) {
			return nil, malformed("line %d of the file does not begin with a number and a colon, as those of the paper copy do", at+1)
		}
		number, err := strconv.Atoi(line[:end])
		if err != nil || number < 1 || number > 2*paperPart {
			return nil, malformed("line %d of the file has a number that no line of a paper copy has", at+1)
		}
		if _, ok := typed[number]; ok {
			return nil, malformed("line %d of the paper copy stands there twice", number)
		}
		chars := strings.Map(typedChar, line[end:])
		cut := max(0, len(chars)-paperCheck)
		typed[number] = typedLine{chars[:cut], chars[cut:]}
	}
	return typed, nil
}

// typedChar is the character that somebody meant: those that the alphabet
// leaves out look like others. What is between groups is dropped.
func typedChar(r rune) rune {
	switch r = unicode.ToLower(r); {
	case r == 'o':
		return '0'
	case r == 'i' || r == '1':
		return 'l'
	case r == 'b':
		return '8'
	case unicode.IsLetter(r) || unicode.IsDigit(r):
		return r
	}
	return -1
}
