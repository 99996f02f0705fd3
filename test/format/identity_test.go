package format

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
)

func TestIdentityFilesAndPaperCopiesReadAsThePageSays(t *testing.T) {
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	old, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	root := ed25519.PublicKey(bytes.Repeat([]byte{7, 200}, 16))
	for _, id := range []fmt.Stringer{hybrid, old} {
		for _, pin := range []ed25519.PublicKey{nil, root} {
			file := []byte(id.String() + "\n")
			if pin != nil {
				file = keys.PinRoot(file, pin)
			}
			paper, err := keys.PaperText(file, keys.Paper{Name: "of the test"})
			if err != nil {
				t.Fatal(err)
			}
			typed := strings.NewReplacer("0", "o", "8", "B", "L", "1", " ", "", "-", "").Replace(paper[strings.Index(paper, "\n1:"):])
			for _, text := range []string{string(file), paper, typed} {
				ids, found, err := ParseIdentityFile(text)
				if err != nil || len(ids) != 1 || fmt.Sprint(ids[0]) != id.String() || !bytes.Equal(found, pin) {
					t.Errorf("%v, root %x, %v from\n%s", ids, found, err, text)
				}
			}
			for _, line := range regexp.MustCompile(`(?m)^[1-6]:.*$`).FindAllString(paper, -1) {
				wrong := "Q"
				if line[5:6] == wrong {
					wrong = "P"
				}
				if _, _, err := ParseIdentityFile(strings.Replace(paper, line, line[:5]+wrong+line[6:], 1)); err == nil {
					t.Errorf("mistyped, it is read: %s", line)
				}
			}
		}
	}
}
