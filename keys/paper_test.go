package keys

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// paperOf makes an identity file pinned to a root key, and its paper copy.
func paperOf(t testing.TB) (file []byte, paper string) {
	t.Helper()
	text, _, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	file = PinRoot(text, generate(t).Signing.Root)
	paper, err = PaperText(file, Paper{Repository: testRepository, Location: "s3:bucket/backups\n1: forged", Name: "safe in room 3", Role: Owner,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	return file, paper
}

// numbered are the lines of a paper copy that have to be typed.
func numbered(paper string) []string {
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(paper), "\n"), func(l string) bool { return l[0] == '#' })
}

func same(t *testing.T, file []byte, typed string) {
	t.Helper()
	want, err := ParseIdentityFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseIdentityFile([]byte(typed))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.Identities) != fmt.Sprint(want.Identities) || !got.Root.Equal(want.Root) || (got.Root == nil) != (want.Root == nil) {
		t.Error("the paper copy is of another identity or root key")
	}
}

func TestPaperCopyIsTheIdentity(t *testing.T) {
	file, paper := paperOf(t)
	same(t, file, paper)
	lines := numbered(paper)
	if len(lines) != 6 {
		t.Fatalf("%d lines to type", len(lines))
	}
	same(t, file, strings.Join(lines, "\r\n"))
	for _, want := range []string{testRepository, "s3:bucket/backups?1: forged", "safe in room 3", "owner", "2026-01-02", "can open the repository"} {
		if !strings.Contains(paper, want) {
			t.Errorf("the paper does not say %q", want)
		}
	}
	for _, l := range strings.Split(paper, "\n") {
		if len(l) > 100 {
			t.Errorf("line of %d characters", len(l))
		}
	}

	old, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	paper, err = PaperText([]byte(old.String()), Paper{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(numbered(paper)); n != 3 {
		t.Errorf("%d lines without a root key", n)
	}
	same(t, []byte(old.String()), paper)
}

func TestPaperIsReadHoweverItIsTyped(t *testing.T) {
	file, paper := paperOf(t)
	lines := numbered(paper)
	reversed := slices.Clone(lines)
	slices.Reverse(reversed)
	for name, typed := range map[string]string{
		"lower case":     strings.ToLower(paper),
		"no spaces":      strings.ReplaceAll(strings.Join(lines, "\n"), " ", ""),
		"no check mark":  strings.ReplaceAll(strings.Join(lines, "\n"), "=", ""),
		"dashes":         strings.ReplaceAll(strings.Join(lines, "\n"), " ", "-"),
		"brackets":       strings.ReplaceAll(strings.Join(lines, "\n"), ":", ")"),
		"other order":    strings.Join(reversed, "\n"),
		"empty lines":    "\n\n  " + strings.Join(lines, "\n\n\t"),
		"letter o for 0": strings.Join(lines[:1], "") + "\n" + swapped(strings.Join(lines[1:], "\n"), "0", "O"),
		"i for l":        swapped(strings.Join(lines, "\n"), "L", "i"),
		"b for 8":        swapped(strings.Join(lines, "\n"), "8", "B"),
	} {
		t.Run(name, func(t *testing.T) { same(t, file, typed) })
	}
}

// swapped replaces a character in lines, but not in their numbers.
func swapped(lines, from, to string) string {
	var out []string
	for _, l := range strings.Split(lines, "\n") {
		out = append(out, l[:2]+strings.ReplaceAll(l[2:], from, to))
	}
	return strings.Join(out, "\n")
}

func TestMistypedLinesOfPaperAreNamed(t *testing.T) {
	_, paper := paperOf(t)
	_, second := paperOf(t)
	lines, other := numbered(paper), numbered(second)
	typo := func(n, at int) string {
		l := lines[n-1]
		return l[:at] + flip(l[at]) + l[at+1:]
	}
	with := func(change map[int]string) string {
		out := slices.Clone(lines)
		for n, l := range change {
			out[n-1] = l
		}
		return strings.Join(out, "\n")
	}
	for name, c := range map[string]struct{ typed, want string }{
		"a character":      {with(map[int]string{2: typo(2, 5)}), "mistyped: line 2"},
		"two lines":        {with(map[int]string{1: typo(1, 4), 6: typo(6, 8)}), "mistyped: line 1, line 6"},
		"a check":          {with(map[int]string{4: typo(4, len(lines[3])-1)}), "mistyped: line 4"},
		"a group left out": {with(map[int]string{3: lines[2][:4] + lines[2][10:]}), "mistyped: line 3"},
		"line left out":    {with(map[int]string{2: ""}), "missing: line 2"},
		"root left out":    {strings.Join(lines[:3], "\n"), "missing: line 4, line 5, line 6"},
		"half a line":      {with(map[int]string{5: "5: QQQ"}), "mistyped: line 5"},
		"two and missing":  {with(map[int]string{5: "", 3: typo(3, 4)}), "mistyped: line 3; missing: line 5"},
		"lines changed": {with(map[int]string{1: "1" + lines[1][1:], 2: "2" + lines[0][1:]}),
			"mistyped: line 1, line 2"},
		"a line twice":      {with(map[int]string{2: lines[0]}), "line 1 of the paper copy stands there twice"},
		"no number":         {with(map[int]string{2: lines[1][3:]}), "line 2 of the file does not begin with a number"},
		"number 7":          {with(map[int]string{2: "7" + lines[1][1:]}), "line 2 of the file has a number"},
		"two papers":        {with(map[int]string{2: other[1]}), "lines 1 to 3 of the paper copy are not of one identity"},
		"nothing is right":  {"1: QQQQQ = QQQQ", "no line of the paper copy is as it was printed"},
		"umlauts":           {with(map[int]string{2: lines[1] + "äöü"}), "mistyped: line 2"},
		"huge number":       {with(map[int]string{2: "99999999999999999999: QQ"}), "line 2 of the file has a number"},
		"only a number":     {with(map[int]string{2: "2"}), "line 2 of the file does not begin"},
		"prose in between":  {with(map[int]string{2: "pgtrove"}), "line 2 of the file does not begin"},
		"an identity in it": {with(map[int]string{2: "AGE-SECRET-KEY-1QQ"}), "line 2 of the file does not begin"},
	} {
		_, err := ParseIdentityFile([]byte(c.typed))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		for _, l := range lines {
			if group := strings.Fields(l)[1]; strings.Contains(err.Error(), group) {
				t.Errorf("%s: the error quotes the paper: %v", name, err)
			}
		}
	}
}

func TestEveryTypingErrorOnPaperIsFound(t *testing.T) {
	_, paper := paperOf(t)
	lines := numbered(paper)
	for n, l := range lines {
		for at := 2; at < len(l); at++ {
			if !strings.Contains(strings.ToUpper(paperAlphabet), l[at:at+1]) {
				continue
			}
			out := slices.Clone(lines)
			out[n] = l[:at] + flip(l[at]) + l[at+1:]
			_, err := ParseIdentityFile([]byte(strings.Join(out, "\n")))
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("mistyped: line %d", n+1)) {
				t.Fatalf("character %d of line %d: %v", at, n+1, err)
			}
		}
	}
}

func TestAgeAloneReadsPaper(t *testing.T) {
	// As the paper says: prefix and three lines, without numbers and checks.
	file, paper := paperOf(t)
	_, rest, _ := strings.Cut(paper, "# Without pgtrove: ")
	text, _, _ := strings.Cut(rest, " ")
	for _, l := range numbered(paper)[:3] {
		chars, _, _ := strings.Cut(l[2:], "=")
		text += strings.ReplaceAll(chars, " ", "")
	}
	id, err := age.ParseHybridIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(file), id.String()) {
		t.Error("another identity")
	}
}

func TestOnlyOneIdentityOfAgeFitsOnPaper(t *testing.T) {
	one, _, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, key := sshKey(t, "")
	for name, file := range map[string][]byte{"nothing": nil, "two": slices.Concat(one, one), "an SSH key": key, "no identity": []byte("hunter2")} {
		if paper, err := PaperText(file, Paper{}); !errors.Is(err, ErrFormat) || paper != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPaper(f *testing.F) {
	_, paper := paperOf(f)
	f.Add([]byte(paper))
	f.Add([]byte(strings.Join(numbered(paper), "\n")))
	f.Add([]byte("1:"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parsePaper(text)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if len(file.Identities) != 1 {
			t.Errorf("%d identities", len(file.Identities))
		}
	})
}
