package chunk

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestIDIsReadBackFromItsText(t *testing.T) {
	id := ID(randomBytes(1, IDSize))
	got, err := ParseID(id.String())
	if err != nil || got != id {
		t.Fatalf("ParseID(%s) = %s, %v", id, got, err)
	}
	if id.Short() != id.String()[:16] {
		t.Errorf("Short() = %s of %s", id.Short(), id)
	}
	b, err := json.Marshal(map[string]ID{"id": id})
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]ID
	if err := json.Unmarshal(b, &back); err != nil || back["id"] != id {
		t.Errorf("JSON %s gives %v, %v", b, back, err)
	}
}

func TestParseIDRefusesWhatStringNeverWrites(t *testing.T) {
	good := strings.Repeat("0a", IDSize)
	for _, s := range []string{"", good[:62], good + "00", strings.ToUpper(good), "g" + good[1:], " " + good[1:], good[:63] + "\n"} {
		if _, err := ParseID(s); !errors.Is(err, ErrSyntax) {
			t.Errorf("ParseID(%q): %v", s, err)
		}
	}
}

func TestKeyIsNeverShown(t *testing.T) {
	k := Key(randomBytes(2, KeySize))
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%t"} {
		got := fmt.Sprintf(format, k) + fmt.Sprintf(format, struct{ K Key }{k}) + fmt.Sprintf(format, []Key{k})
		if strings.Contains(got, fmt.Sprintf("%x", k[0:2])) || strings.Contains(got, fmt.Sprintf("%d", k[0])) {
			t.Errorf("%s shows %s", format, got)
		}
	}
	if b, err := json.Marshal(k); err == nil {
		t.Errorf("JSON shows %s", b)
	}
}

func TestFormKnowsItsPages(t *testing.T) {
	for size, want := range map[int]Form{1024: 10, 8192: 13, 65536: 16} {
		f, err := PageForm(size)
		if err != nil || f != want || f.PageSize() != size || !f.Valid() || f.Pages(3*size) != 3 {
			t.Errorf("PageForm(%d) = %v, %v", size, f, err)
		}
	}
	for _, size := range []int{0, -8192, 512, 8191, 12288, 131072} {
		if _, err := PageForm(size); err == nil {
			t.Errorf("PageForm(%d) succeeds", size)
		}
	}
	for f := range 256 {
		f := Form(f)
		if want := f == 0 || f >= 10 && f <= 16; f.Valid() != want {
			t.Errorf("Form(%d).Valid() = %v", f, !want)
		}
		if !f.Valid() && (f.PageSize() != 0 || f.Pages(1<<20) != 0) {
			t.Errorf("Form(%d) has pages", f)
		}
	}
	if n := Form(13).Pages(8191); n != 0 {
		t.Errorf("8191 bytes are %d pages of 8192", n)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(strings.Repeat("0a", IDSize))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && id.String() != s {
			t.Errorf("ParseID(%q) = %s", s, id)
		}
	})
}
