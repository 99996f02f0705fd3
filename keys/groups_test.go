package keys

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func metaOf(t testing.TB, b *Bundle) *Meta {
	t.Helper()
	m, err := b.Meta()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGroupsReadTheirOwnAndWhatIsForAll(t *testing.T) {
	owner := withGroup(t, withGroup(t, generate(t), "b"), "c")
	main := issue(t, owner, IssueOptions{Name: "db1", Role: Writer})
	inB := issue(t, owner, IssueOptions{Name: "db2", Role: Writer, Group: "b"})
	ownerInC := issue(t, owner, IssueOptions{Name: "second owner", Role: Owner, Group: "c"})
	aad := []byte("aad")
	bundles := map[string]*Bundle{"main": main, "b": inB, "owner": owner, "owner in c": ownerInC}
	holds := func(b *Bundle, group string) bool {
		return slices.ContainsFunc(b.Groups(), func(g Group) bool { return g.Name == group })
	}
	if holds(main, "b") || holds(inB, "") || !holds(owner, "c") || !holds(ownerInC, "") {
		t.Fatal("members hold keys of other groups, or owners do not")
	}
	for from, writer := range bundles {
		m := metaOf(t, writer)
		sealed, common := m.Seal(nil, []byte("of a group"), aad), m.SealCommon(nil, []byte("for all"), aad)
		for to, reader := range bundles {
			r := metaOf(t, reader)
			got, err := r.Open(nil, common, aad)
			if err != nil || string(got) != "for all" {
				t.Errorf("%s reads what %s sealed for all: %q, %v", to, from, got, err)
			}
			got, _, isCommon, err := r.OpenTagged(nil, m.CommonTag(), common, aad)
			if err != nil || string(got) != "for all" || !isCommon {
				t.Errorf("%s reads what %s sealed for all, by its tag: %q, %t, %v", to, from, got, isCommon, err)
			}
			may := holds(reader, writer.Group)
			_, err = r.Open(nil, sealed, aad)
			if (err == nil) != may || !may && !errors.Is(err, ErrDamaged) {
				t.Errorf("%s reads what %s sealed: %v, want %t", to, from, err, may)
			}
			got, group, isCommon, err := r.OpenTagged([]byte("ahead "), m.Tag(), sealed, aad)
			switch {
			case !may && !errors.Is(err, ErrForeign), may && err != nil:
				t.Errorf("%s reads what %s sealed, by its tag: %v", to, from, err)
			case may && (string(got) != "ahead of a group" || group != writer.Group || isCommon):
				t.Errorf("%s reads what %s sealed, by its tag: %q of group %q, %t", to, from, got, group, isCommon)
			}
		}
	}
}

func TestTagsNameKeysAndNothingElse(t *testing.T) {
	owner := withGroup(t, generate(t), "b")
	m, b := metaOf(t, owner), metaOf(t, issue(t, owner, IssueOptions{Name: "db2", Role: Writer, Group: "b"}))
	if m.Tag() == b.Tag() || m.Tag() == m.CommonTag() || m.CommonTag() != b.CommonTag() {
		t.Error("tags of different keys are the same, or those of one key differ")
	}
	if m.Tag() == metaOf(t, generate(t)).Tag() {
		t.Error("the tag does not depend on the key")
	}
	sealed, aad := m.Seal(nil, []byte("plain"), nil), []byte(nil)
	if _, _, _, err := m.OpenTagged(nil, m.CommonTag(), sealed, aad); !errors.Is(err, ErrDamaged) {
		t.Errorf("under another key's tag: %v", err)
	}
	if _, _, _, err := m.OpenTagged(nil, m.Tag(), sealed[:10], aad); !errors.Is(err, ErrDamaged) {
		t.Errorf("cut off: %v", err)
	}
	if _, _, _, err := m.OpenTagged(nil, m.Tag(), sealed, []byte("x")); !errors.Is(err, ErrDamaged) {
		t.Errorf("other additional data: %v", err)
	}
	if _, _, _, err := m.OpenTagged(nil, [TagSize]byte{}, sealed, aad); !errors.Is(err, ErrForeign) {
		t.Errorf("a tag of nobody: %v", err)
	}
	for _, k := range [][]byte{owner.MetaKey[:TagSize], owner.Common[:TagSize]} {
		if tag := m.Tag(); bytes.Equal(tag[:], k) {
			t.Error("the tag is a part of the key")
		}
	}
}

func TestWALIsOfAGroup(t *testing.T) {
	owner := withGroup(t, generate(t), "b")
	for _, group := range []string{"", "b"} {
		w := issue(t, owner, IssueOptions{Name: "w", Role: Writer, Group: group})
		s, err := w.WALSealer(testRepository, "s1")
		if err != nil {
			t.Fatal(err)
		}
		for _, reader := range []string{"", "b"} {
			want := ErrLocked
			if reader == group {
				want = nil
			}
			standby := issue(t, owner, IssueOptions{Name: "s", Role: Standby, Group: reader})
			if _, err := standby.WALOpener(testRepository, "s1", s.Encapsulation()); !errors.Is(err, want) {
				t.Errorf("standby of %q opens WAL of %q: %v", reader, group, err)
			}
		}
		if _, err := owner.WALOpener(testRepository, "s1", s.Encapsulation()); err != nil {
			t.Errorf("owner opens WAL of %q: %v", group, err)
		}
		if _, err := w.WALOpener(testRepository, "s1", s.Encapsulation()); !errors.Is(err, ErrRole) {
			t.Errorf("writer opens WAL: %v", err)
		}
		d, err := w.DataSealer(testRepository, "s1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := owner.DataOpener(testRepository, "s1", d.Encapsulation()); err != nil {
			t.Errorf("owner opens data of %q: %v", group, err)
		}
	}
}

func TestGroupsShareNothing(t *testing.T) {
	owner := withGroup(t, withGroup(t, generate(t), "b"), "c")
	groups := owner.Groups()
	if len(groups) != 3 || groups[0].Name != "" || groups[1].Name != "b" || groups[2].Name != "c" || groups[0].String() != "main" || groups[1].String() != "b" {
		t.Fatalf("groups %v", groups)
	}
	seen := map[string]bool{}
	for _, g := range groups {
		for _, s := range [][]byte{g.ChunkKey[:], g.MetaKey[:], g.WALKeys[0].Secret[:]} {
			if seen[string(s)] {
				t.Error("two groups share a key")
			}
			seen[string(s)] = true
		}
	}
	w := issue(t, owner, IssueOptions{Name: "w", Role: Writer, Group: "b"})
	plain, err := encodeBundle(w)
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Groups()) != 1 || w.IDKey() != groups[1].ChunkKey {
		t.Error("the writer's keys are not those of its group")
	}
	back, err := decodeBundle(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets(back) {
		if bytes.Equal(s, groups[0].MetaKey[:]) || bytes.Equal(s, groups[0].ChunkKey[:]) || bytes.Equal(s, groups[2].MetaKey[:]) {
			t.Error("a writer holds a key of another group")
		}
	}
}

func TestGroupsAreAddedOnce(t *testing.T) {
	owner := generate(t)
	b := withGroup(t, owner, "b")
	if len(owner.Others) != 0 {
		t.Error("the old bundle has changed")
	}
	spare := *b
	spare.Others = slices.Grow(slices.Clone(b.Others), 1) // as an append may have left it
	c, d := withGroup(t, &spare, "c"), withGroup(t, &spare, "d")
	if c.Others[1].Name != "c" || d.Others[1].Name != "d" {
		t.Error("bundles share the memory of their groups")
	}
	if old, now := owner.Certificate(), c.Certificate(); old.Entry != now.Entry || !old.Public.Equal(now.Public) || !old.Created.Equal(now.Created) {
		t.Error("the owner's entry has changed")
	}
	for _, name := range []string{"b", "", "main", "B", "a b", "a/b", "ä", string(bytes.Repeat([]byte("a"), maxGroupName+1))} {
		if _, err := b.AddGroup(name); !errors.Is(err, ErrFormat) {
			t.Errorf("group %q: %v", name, err)
		}
	}
	for text, want := range map[string]string{"": "", "main": "", "b": "b", "a-1_x": "a-1_x"} {
		if got, err := ParseGroup(text); err != nil || got != want {
			t.Errorf("group %q is %q, %v", text, got, err)
		}
	}
	if _, err := ParseGroup("B"); !errors.Is(err, ErrFormat) {
		t.Errorf("group B: %v", err)
	}
}

func TestRotationRenewsAllDataAndWALKeys(t *testing.T) {
	old := withGroup(t, generate(t), "b")
	fresh, err := old.RotateData()
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := old.Validate(); err != nil {
		t.Errorf("the old bundle has changed: %v", err)
	}
	if len(old.DataKeys) != 1 || len(fresh.DataKeys) != 2 || fresh.DataKeys[0].ID != old.DataKeys[0].ID {
		t.Error("data keys")
	}
	for i, g := range fresh.Groups() {
		o := old.Groups()[i]
		if len(o.WALKeys) != 1 || len(g.WALKeys) != 2 || g.WALKeys[0].ID != o.WALKeys[0].ID || g.MetaKey != o.MetaKey || g.ChunkKey != o.ChunkKey {
			t.Errorf("keys of group %s", g)
		}
	}
	// A writer of before and one of after read each other's metadata, and what
	// both sealed opens.
	before := issue(t, old, IssueOptions{Name: "w", Role: Writer, Group: "b"})
	after := issue(t, fresh, IssueOptions{Entry: before.Certificate().Entry, Name: "w", Role: Writer, Group: "b"})
	if metaOf(t, before).Tag() != metaOf(t, after).Tag() {
		t.Error("rotation has split the group")
	}
	if before.Certificate().Entry != after.Certificate().Entry || before.Certificate().Public.Equal(after.Certificate().Public) {
		t.Error("the entry's next bundle has its own signing key, and the old ID")
	}
	for _, w := range []*Bundle{before, after} {
		s, err := w.WALSealer(testRepository, "s")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fresh.WALOpener(testRepository, "s", s.Encapsulation()); err != nil {
			t.Error(err)
		}
	}
	// Who has only the old bundle reads nothing new.
	s, err := after.DataSealer(testRepository, "s")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.DataOpener(testRepository, "s", s.Encapsulation()); !errors.Is(err, ErrLocked) {
		t.Errorf("the old bundle opens new data: %v", err)
	}
}

func TestUnsignedBundleIsOneGroup(t *testing.T) {
	m := metaOf(t, unsigned(t))
	if m.Tag() != m.CommonTag() {
		t.Error("two keys in a bundle of version 1")
	}
	sealed := m.SealCommon(nil, []byte("plain"), nil)
	if got, err := m.Open(nil, sealed, nil); err != nil || string(got) != "plain" {
		t.Errorf("%q, %v", got, err)
	}
}
