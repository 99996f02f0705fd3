package format

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/walarchive"
)

// ArchiveHeader says of what is absent what walarchive expects.
func (a archive) ArchiveHeader(ctx context.Context, key string) ([]byte, int64, error) {
	header, size, err := a.Repo.ArchiveHeader(ctx, key)
	if errors.Is(err, storage.ErrNotExist) {
		err = errors.Join(walarchive.ErrNotExist, err)
	}
	return header, size, err
}

func TestPartsOfASegmentReadAsThePageSays(t *testing.T) {
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
	if fresh, err := a.AnnounceReceiver(t.Context()); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	const segment, one, two = "00000002000000010000000E", "20261121T183000Z-00000000000000aa", "20261121T184500Z-0123456789abcdef"
	stream := join(text(700_000, 512), make([]byte, 1<<20-700_000))
	start := pg.LSN(1<<32 + 14<<20)
	for _, p := range []walarchive.Part{
		{Receiver: one, From: 0, To: 4096}, {Receiver: one, From: 0, To: 90_000}, {Receiver: one, From: 90_000, To: 100_000},
		{Receiver: two, From: 0, To: 300_000}, {Receiver: two, From: 262_144, To: 400_000}, {Receiver: two, From: 262_144, To: 655_360},
		{Receiver: two, From: 655_361, To: 655_362}, // something in front of it did not come
	} {
		p.Segment, p.Content = segment, stream[p.From:p.To]
		p.Facts = walarchive.Facts{SegmentSize: 1 << 20, Major: 18, End: start + pg.LSN(p.To) - 8}
		if err := a.PushPart(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Open(os.DirFS(dir), id)
	if err != nil {
		t.Fatal(err)
	}
	base := "wal/main/7301234567890123456/"
	if n := len(r.Names(base)); n != 8 {
		t.Errorf("%d objects", n)
	}
	h, content, err := r.WAL(base + "00000002/" + segment + ".part/00040000-000a0000-" + two)
	if err != nil || h.Kind != walPart || h.Timeline != 2 || h.SegmentSize != 1<<20 || h.End != uint64(start)+655_352 || !bytes.Equal(content, stream[262_144:655_360]) {
		t.Errorf("%+v, %v", h, err)
	}
	got, reach, err := r.Received(base + "00000002/" + segment)
	want := bytes.Clone(stream)
	clear(want[655_360:])
	if err != nil || reach != 655_360 || !bytes.Equal(got, want) {
		t.Errorf("received up to %d: %v", reach, err)
	}
	_, ours, err := a.FetchParts(t.Context(), segment, nil)
	if err != nil || !bytes.Equal(ours, want) {
		t.Errorf("the program reads something else: %v", err)
	}
	if _, _, err := r.Received(base + "00000002/" + segment[:23] + "F"); !errors.Is(err, errNoParts) {
		t.Error(err)
	}
	note, text, err := r.WAL(base + "receive")
	if err != nil || note.Kind != walReceive || note.Timeline != 0 || !bytes.HasPrefix(text, []byte(`{"version":1,"since":"20`)) {
		t.Errorf("%+v, %s, %v", note, text, err)
	}
	for _, bad := range []string{
		segment + ".part/00040000-000A0000-" + two, segment + ".part/00040000-00040000-" + two, segment + ".part/00040000-40000001-" + two,
		segment + ".part/40000-a0000-" + two, segment + ".part/00040000-000a0000-" + two + ".partial", segment + ".part/00040000-000a0000", "Receive",
	} {
		if kind, _ := fileKind(bad); kind != 0 {
			t.Errorf("%s is a file of kind %d", bad, kind)
		}
		if _, err := walarchive.ParseName(bad); err == nil {
			t.Errorf("%s is a name", bad)
		}
	}
}
