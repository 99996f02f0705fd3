package receive

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/walarchive"
)

// announcedLongAgo makes the note that there are receivers, as if the first of them had come an hour ago: parts count for the server only when all who fetch
// WAL must know of it.
func (w *world) announcedLongAgo() {
	t := w.t
	t.Helper()
	system, err := pg.ParseSystemID(w.Query(t, "SELECT system_identifier FROM pg_control_system()"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(w.key)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := keys.ParseIdentityFile(key)
	if err != nil {
		t.Fatal(err)
	}
	store, err := storagefs.Open(w.repo)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, ids.Identities...)
	if err != nil {
		t.Fatal(err)
	}
	a := walarchive.Archive{Cluster: "main", System: system}
	name := walarchive.Name{Kind: walarchive.Receivers, File: "receive"}
	text := fmt.Appendf(nil, `{"version":1,"since":%q,"nonce":"0123456789abcdef"}`, time.Now().UTC().Add(-time.Hour).Format(time.RFC3339))
	h := walarchive.Header{Kind: name.Kind, Cluster: a.Cluster, System: system, Name: name.File, Inline: text}
	head, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutArchive(t.Context(), a.Key(name), head, text); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, filepath.Join(w.repo, "wal"))
}
