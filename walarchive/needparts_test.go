package walarchive

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// judged lists what is in the archive, each file with its use, and with a plus if it follows the one before.
func judged(t *testing.T, a Archive, j *Judge) (all []string) {
	t.Helper()
	if err := a.Objects.List(t.Context(), Prefix, func(key string, _ int64) error {
		use, follows, err := j.Use(t.Context(), key)
		file := strings.TrimPrefix(strings.TrimPrefix(key, a.prefix()), "00000001/")
		file = strings.ReplaceAll(file, "000000010000000000", "")
		if i := strings.Index(file, partSuffix); i > 0 {
			file = file[:i+5]
		}
		text := file + " " + map[Use]string{Needed: "needed", Parting: "parting", Unneeded: "unneeded", Unclaimed: "unclaimed", Replaced: "replaced"}[use]
		if follows {
			text += "+"
		}
		all = append(all, text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPartsAreNeededAsTheirSegmentIsUntilItIsThere(t *testing.T) {
	a, _ := newArchive()
	for n := uint64(1); n <= 7; n++ {
		receive(t, a, n, 6000)
	}
	pushSegments(t, a, 1, 2, 4)
	pushSegments(t, a, 1, 6, 6)
	push(t, a, segmentName(1, 4)+".partial", content(0), segmentFacts(1, 4))
	push(t, a, segmentName(1, 4)+".00000028.backup", []byte("x"), Facts{})
	if _, err := a.AnnounceReceiver(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		stay, leave []Snapshot
		want        string
	}{
		"one from 4 on": {stay: []Snapshot{snapshotAt(1, 4)}, want: `
			000001.part unneeded+, 000001.part unneeded+,
			000002 unneeded+, 000002.part replaced+, 000002.part replaced+,
			000003 unneeded+, 000003.part replaced+, 000003.part replaced+,
			000004 needed+, 000004.00000028.backup needed+, 000004.part replaced+, 000004.part replaced+, 000004.partial needed+,
			000005.part needed, 000005.part needed+,
			000006 needed+, 000006.part replaced+, 000006.part replaced+,
			000007.part needed, 000007.part needed+,
			receive needed`},
		"one of 2 and 3, and one that leaves": {stay: []Snapshot{narrowAt(1, 2, 3)}, leave: []Snapshot{snapshotAt(1, 4)}, want: `
			000001.part unneeded+, 000001.part unneeded+,
			000002 needed+, 000002.part replaced+, 000002.part replaced+,
			000003 needed, 000003.part replaced+, 000003.part replaced+,
			000004 parting, 000004.00000028.backup parting+, 000004.part replaced+, 000004.part replaced+, 000004.partial parting+,
			000005.part parting, 000005.part parting+,
			000006 parting+, 000006.part replaced+, 000006.part replaced+,
			000007.part parting, 000007.part parting+,
			receive needed`},
		"none": {want: `
			000001.part unclaimed+, 000001.part unclaimed+,
			000002 unclaimed+, 000002.part replaced+, 000002.part replaced+,
			000003 unclaimed, 000003.part replaced+, 000003.part replaced+,
			000004 unclaimed, 000004.00000028.backup unclaimed+, 000004.part replaced+, 000004.part replaced+, 000004.partial unclaimed,
			000005.part unclaimed+, 000005.part unclaimed+,
			000006 unclaimed+, 000006.part replaced+, 000006.part replaced+,
			000007.part unclaimed, 000007.part unclaimed+,
			receive needed`},
	} {
		var want []string
		for _, w := range strings.Split(c.want, ",") {
			want = append(want, strings.TrimSpace(w))
		}
		got := judged(t, a, needCase{stay: c.stay, leave: c.leave}.judge(a))
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				t.Errorf("%s: file %d is not %q: %q", name, i, want[i], got)
				break
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d files", name, len(got))
		}
	}
	// Who does not know what a cluster needs removes nothing of it.
	j := needCase{stay: []Snapshot{snapshotAt(1, 4)}}.judge(a)
	j.Spare(a.Cluster)
	for _, text := range judged(t, a, j) {
		if !strings.HasSuffix(text, " needed") {
			t.Errorf("%s, though what is needed is not known", text)
		}
	}
}

func TestTheNoteOfAGapIsNeededAsItsSegmentsAre(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 2)
	pushGap(t, a, 2, 3) // 2 came all the same
	pushGap(t, a, 3, 5)
	pushGap(t, a, 7, 7)
	pushSegments(t, a, 1, 8, 8)
	note := func(first, last int) string { return fmt.Sprintf("%06d-%06d.gap", first, last) }
	for name, c := range map[string]struct {
		stay, leave []Snapshot
		want        []string
	}{
		"from the middle of one on": {stay: []Snapshot{snapshotAt(1, 5)}, want: []string{
			"000001 unneeded+", "000002 unneeded+", note(2, 3) + " unneeded+", note(3, 5) + " needed", note(7, 7) + " needed", "000008 needed+"}},
		"up to the begin of one": {stay: []Snapshot{narrowAt(1, 1, 3)}, want: []string{
			"000001 needed+", "000002 needed+", note(2, 3) + " needed+", note(3, 5) + " needed", note(7, 7) + " unneeded", "000008 unneeded+"}},
		"between": {stay: []Snapshot{narrowAt(1, 6, 6)}, want: []string{
			"000001 unneeded+", "000002 unneeded+", note(2, 3) + " unneeded+", note(3, 5) + " unneeded", note(7, 7) + " unneeded", "000008 unneeded+"}},
		"what leaves": {stay: []Snapshot{snapshotAt(1, 6)}, leave: []Snapshot{snapshotAt(1, 3)}, want: []string{
			"000001 unneeded+", "000002 unneeded+", note(2, 3) + " parting+", note(3, 5) + " parting", note(7, 7) + " needed", "000008 needed+"}},
		"none": {want: []string{
			"000001 unclaimed+", "000002 unclaimed+", note(2, 3) + " unclaimed+", note(3, 5) + " unclaimed+", note(7, 7) + " unclaimed+", "000008 unclaimed+"}},
	} {
		if got := judged(t, a, needCase{stay: c.stay, leave: c.leave}.judge(a)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// Of a size that is not the cluster's it says nothing that anybody understands.
	j := NewJudge(a.Objects)
	j.Add(a.Cluster, a.System, 1<<30, snapshotAt(1, 5), true)
	for _, text := range judged(t, a, j)[4:5] {
		if !strings.HasSuffix(text, " needed") {
			t.Error(text)
		}
	}
}
