package format

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/walarchive"
)

func TestANoteOfAGapReadsAsThePageSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	store, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	made, err := repo.Init(t.Context(), store, id.Recipient(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := walarchive.Archive{Objects: archive{made}, Cluster: "main", System: goldenSystem}
	const first, last = "0000000200000001000000FE", "000000020000000200000003"
	note := walarchive.GapNote{First: first, Last: last, Reason: walarchive.ReasonBacklog, Limit: 1 << 30, Waiting: 1<<30 + 1,
		From: time.UnixMicro(1_772_600_000_123_456), To: time.UnixMicro(1_772_600_001_000_000), Host: "db1", Error: "no answer", Files: []string{"00000002.history"}}
	if err := a.PushGap(t.Context(), note, 16<<20); err != nil {
		t.Fatal(err)
	}
	r, err := Open(os.DirFS(dir), id)
	if err != nil {
		t.Fatal(err)
	}
	name := "wal/main/7301234567890123456/00000002/" + first + "-" + last + ".gap"
	h, content, err := r.WAL(name)
	if err != nil {
		t.Fatal(err)
	}
	if h.Kind != walGap || h.Timeline != 2 || h.SegmentSize != 16<<20 || string(content) != string(h.Inline) || !strings.HasPrefix(string(content), `{"version":1,`) {
		t.Errorf("%+v, %s", h, content)
	}
	g, err := h.Gap()
	if err != nil || g.Reason != "backlog" || g.Limit != 1<<30 || g.Waiting != 1<<30+1 || g.From != "2026-03-04T04:53:20.123456Z" ||
		g.To != "2026-03-04T04:53:21Z" || g.Host != "db1" || g.Error != "no answer" || len(g.Files) != 1 {
		t.Errorf("%+v, %v", g, err)
	}
	for _, bad := range []string{last + "-" + first + ".gap", first + ".gap", first + "-00000003" + last[8:] + ".gap", first + "-" + last + ".gap.partial"} {
		if kind, _ := fileKind(bad); kind != 0 {
			t.Errorf("%s is a file of kind %d", bad, kind)
		}
		if _, err := walarchive.ParseName(bad); err == nil {
			t.Errorf("%s is a name", bad)
		}
	}
}
