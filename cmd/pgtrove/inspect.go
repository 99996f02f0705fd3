package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect OBJECT",
		Short: "Show any object of a repository",
		Long: `Show what an object of the repository says, by its name there: config, keys/..., sessions/..., packs/..., index/...,
snapshots/..., wal/..., gc/..., base/..., forget/..., pins/.... No secret is shown. A name that ends in a slash, or none, lists the objects below it.`,
		Args: between(0, "OBJECT"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			object := ""
			if len(args) == 1 {
				object = strings.TrimPrefix(args[0], "/")
			}
			return a.inspect(ctx, object)
		}),
	}
}

// errNoObject says that the repository has no object of that name.
var errNoObject = errors.New("no such object")

func (a *app) inspect(ctx context.Context, object string) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	if object == "" || strings.HasSuffix(object, "/") {
		return a.listObjects(ctx, r, object)
	}
	kind, _, _ := strings.Cut(object, "/")
	var v any
	switch kind {
	case "config":
		v = r.Config()
	case "keys":
		v, err = a.inspectKey(ctx, r, object)
	case "sessions", "snapshots", "gc", "forget", "pins":
		v, err = inspectJSON(ctx, r, object)
	case "index", "base":
		v, err = inspectIndex(ctx, r, object)
	case "packs":
		v, err = inspectPack(ctx, r, object)
	case "wal":
		v, err = inspectWAL(ctx, r, object)
	default:
		err = errNoObject
	}
	switch {
	case errors.Is(err, storage.ErrNotExist), errors.Is(err, storage.ErrKey), errors.Is(err, repo.ErrMissing), errors.Is(err, errNoObject):
		return withHint(fmt.Errorf("inspect %s: %w in the repository", object, errNoObject),
			"`pgtrove inspect` lists all objects, `pgtrove inspect packs/` those of a kind")
	case err != nil:
		return fmt.Errorf("inspect %s: %w", object, err)
	}
	return a.showObject(object, kind, v)
}

type objectJSON struct {
	Type string `json:"type"`
	Key  string `json:"key"`
	Size int64  `json:"size"`
}

func (a *app) listObjects(ctx context.Context, r *repo.Repo, prefix string) error {
	return r.List(ctx, prefix, func(key string, size int64) error {
		if a.settings.JSON {
			return a.out.object(objectJSON{"object", key, size})
		}
		return a.out.print("%12d  %s\n", size, key)
	})
}

// showObject prints what an object says: one line of JSON with its type; for people a table where there is one, or the
// same JSON indented.
func (a *app) showObject(key, kind string, v any) error {
	if t, ok := v.(interface{ table() string }); ok && !a.settings.JSON {
		return a.out.print("%s\n%s", key, t.table())
	}
	if !a.settings.JSON {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode result: %w", err)
		}
		return a.out.print("%s\n%s\n", key, text)
	}
	return a.out.object(struct {
		Type    string `json:"type"`
		Key     string `json:"key"`
		Kind    string `json:"kind"`
		Content any    `json:"content"`
	}{"object", key, kind, v})
}

// inspectJSON shows an object whose payload is JSON, as it is.
func inspectJSON(ctx context.Context, r *repo.Repo, key string) (any, error) {
	b, err := r.Payload(ctx, key)
	if err != nil {
		return nil, err
	}
	if !json.Valid(b) {
		return nil, fmt.Errorf("%w: %s is not JSON", repo.ErrDamaged, key)
	}
	return json.RawMessage(b), nil
}

type keyPairJSON struct {
	ID     string `json:"id"`
	Secret bool   `json:"secret"` // whether the bundle holds the secret half
}

type bundleJSON struct {
	Recipients []string      `json:"recipients"` // the kinds of keys that open it
	Opens      bool          `json:"opens"`      // whether the key in use does
	Entry      string        `json:"entry,omitempty"`
	Role       keys.Role     `json:"role,omitempty"`
	Group      string        `json:"group,omitempty"`
	Clusters   []string      `json:"clusters,omitempty"`
	Name       string        `json:"name,omitempty"`
	Repository string        `json:"repository,omitempty"`
	Created    *jsonTime     `json:"created,omitempty"`
	DataKeys   []keyPairJSON `json:"data_keys,omitempty"`
	WALKeys    []keyPairJSON `json:"wal_keys,omitempty"`
}

// inspectKey shows what is known of a key bundle without telling any key, or what an owner has said of one.
func (a *app) inspectKey(ctx context.Context, r *repo.Repo, key string) (any, error) {
	if record, err := r.KeyRecord(ctx, key); record != nil || err != nil {
		return json.RawMessage(record), err
	}
	raw, err := r.Raw(ctx, key)
	if err != nil {
		return nil, err
	}
	j := bundleJSON{Recipients: ageRecipients(raw)}
	name, err := a.repositoryName()
	if err != nil {
		return nil, err
	}
	store, _, err := a.openStorage(ctx, name)
	if err != nil {
		return nil, err
	}
	given, err := a.identities(ctx, store)
	if err != nil {
		return nil, err
	}
	b, err := keys.Unwrap(raw, given.Identities...)
	if errors.Is(err, keys.ErrLocked) {
		return j, nil
	}
	if err != nil {
		return nil, err
	}
	created := jsonTime(b.Created)
	j.Opens, j.Role, j.Name, j.Repository, j.Created = true, b.Role, b.Name, b.Repository, &created
	if c := b.Certificate(); c != nil {
		j.Entry, j.Group, j.Clusters = c.Entry, keys.ShowGroup(c.Group), c.Clusters
	}
	j.DataKeys, j.WALKeys = keyPairs(b.DataKeys), keyPairs(b.WALKeys)
	return j, nil
}

func keyPairs(pairs []keys.KeyPair) []keyPairJSON {
	var out []keyPairJSON
	for _, p := range pairs {
		out = append(out, keyPairJSON{p.ID.String(), !p.Secret.IsZero()})
	}
	return out
}

// ageRecipients reads the kinds of recipients from an age file's plain header.
func ageRecipients(file []byte) []string {
	kinds := []string{}
	for line := range bytes.Lines(file) {
		if bytes.HasPrefix(line, []byte("---")) {
			break
		}
		if rest, ok := bytes.CutPrefix(line, []byte("-> ")); ok {
			kind, _, _ := strings.Cut(strings.TrimSpace(string(rest)), " ")
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

type packJSON struct {
	Key      string      `json:"key,omitempty"`
	Size     int64       `json:"size,omitempty"`
	Kind     string      `json:"kind"`
	Sessions []string    `json:"sessions"`
	Plain    int64       `json:"plain"` // bytes of all chunks together
	Chunks   []chunkJSON `json:"chunks"`
}

type chunkJSON struct {
	ID       string `json:"id"`
	Form     string `json:"form"`
	Encoding string `json:"encoding"`
	Offset   uint32 `json:"offset"`
	Sealed   uint32 `json:"sealed"`
	Plain    uint32 `json:"plain"`
	Session  uint16 `json:"session"`
	Nonce    uint64 `json:"nonce"`
}

func (p packJSON) summary() string {
	text := fmt.Sprintf("%s, %s of %s", p.Kind, showCount(int64(len(p.Chunks)), "chunk", "chunks"), showBytes(p.Plain))
	if len(p.Sessions) > 0 {
		text += ", sealed in " + strings.Join(p.Sessions, ", ")
	}
	return text
}

func (p packJSON) table() string {
	t := newTable("CHUNK", "FORM", "ENCODING", ">OFFSET", ">SEALED", ">PLAIN", ">SESSION", ">NONCE")
	for _, c := range p.Chunks {
		t.add(c.ID, c.Form, c.Encoding, fmt.Sprint(c.Offset), fmt.Sprint(c.Sealed), fmt.Sprint(c.Plain), fmt.Sprint(c.Session), fmt.Sprint(c.Nonce))
	}
	return p.summary() + "\n" + t.String()
}

// indexJSON is an index segment. For people its packs are enough: each can be inspected itself.
type indexJSON struct {
	Packs []packJSON `json:"packs"`
}

func (i indexJSON) table() string {
	var b strings.Builder
	for _, p := range i.Packs {
		fmt.Fprintf(&b, "%s: %d bytes, %s\n", p.Key, p.Size, p.summary())
	}
	return b.String()
}

func packResult(d *pack.Directory) packJSON {
	j := packJSON{Kind: d.Kind.String(), Sessions: []string{}, Chunks: []chunkJSON{}}
	for _, s := range d.Sessions {
		j.Sessions = append(j.Sessions, s.SID)
	}
	for _, e := range d.Entries {
		j.Plain += int64(e.Plain)
		j.Chunks = append(j.Chunks, chunkJSON{
			ID: e.ID.String(), Form: e.Form.String(), Encoding: e.Encoding.String(), Offset: e.Offset, Sealed: e.Sealed,
			Plain: e.Plain, Session: e.Session, Nonce: e.Nonce,
		})
	}
	return j
}

func inspectPack(ctx context.Context, r *repo.Repo, key string) (any, error) {
	d, err := r.PackDirectory(ctx, key)
	if err != nil {
		return nil, err
	}
	return packResult(d), nil
}

func inspectIndex(ctx context.Context, r *repo.Repo, key string) (any, error) {
	b, err := r.Payload(ctx, key)
	if err != nil {
		return nil, err
	}
	s, err := index.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", repo.ErrDamaged, err)
	}
	packs := []packJSON{}
	for i := range s.Packs {
		j := packResult(&s.Packs[i].Directory)
		j.Key, j.Size = s.Packs[i].Key, s.Packs[i].Size
		packs = append(packs, j)
	}
	return indexJSON{packs}, nil
}

func inspectWAL(ctx context.Context, r *repo.Repo, key string) (any, error) {
	cluster, system, n, err := walarchive.ParseKey(key)
	if err != nil {
		return nil, errNoObject
	}
	h, err := walarchive.Archive{Objects: walObjects{r}, Cluster: cluster, System: system}.Header(ctx, n.File)
	if errors.Is(err, walarchive.ErrNotExist) {
		return nil, errNoObject
	}
	if err != nil {
		return nil, err
	}
	return walHeaderResult(h), nil
}

type walHeaderJSON struct {
	Kind          string              `json:"kind"`
	Cluster       string              `json:"cluster"`
	SystemID      string              `json:"system_id"`
	Timeline      uint32              `json:"timeline"`
	Name          string              `json:"name"`
	SegmentSize   uint32              `json:"segment_size,omitempty"`
	Major         int                 `json:"pg_major,omitempty"`
	FirstCommit   jsonTime            `json:"first_commit"`
	LastCommit    jsonTime            `json:"last_commit"`
	MinXID        uint32              `json:"min_xid"`
	MaxXID        uint32              `json:"max_xid"`
	EndLSN        string              `json:"end_lsn,omitempty"`
	RestorePoints []restorePointJSON  `json:"restore_points"`
	History       string              `json:"history,omitempty"`
	Gap           *walarchive.GapNote `json:"gap,omitempty"`
	Part          *walPartJSON        `json:"part,omitempty"`
	Receivers     json.RawMessage     `json:"receivers,omitempty"` // the note of receivers, as it is
}

// walPartJSON says which bytes of its segment a part has.
type walPartJSON struct {
	Segment string `json:"segment"`
	From    int64  `json:"from"`
	To      int64  `json:"to"`
}

type restorePointJSON struct {
	Name string   `json:"name"`
	LSN  string   `json:"lsn"`
	Time jsonTime `json:"time"`
}

func walHeaderResult(h *walarchive.Header) walHeaderJSON {
	j := walHeaderJSON{
		Kind: h.Kind.String(), Cluster: h.Cluster, SystemID: h.System.String(), Timeline: uint32(h.Timeline), Name: h.Name,
		SegmentSize: uint32(h.SegmentSize), Major: h.Major, FirstCommit: jsonTime(h.FirstCommit), LastCommit: jsonTime(h.LastCommit),
		MinXID: h.MinXID, MaxXID: h.MaxXID, RestorePoints: []restorePointJSON{},
	}
	switch h.Kind {
	case walarchive.History:
		j.History = string(h.Inline)
	case walarchive.Dropped:
		j.Gap, _ = h.Gap() // none, if it is of a later version
	case walarchive.PartKind:
		if n, err := walarchive.ParseName(h.Name); err == nil {
			from, to := n.Span()
			j.Part = &walPartJSON{n.OfSegment(), from, to}
		}
	case walarchive.Receivers:
		if json.Valid(h.Inline) {
			j.Receivers = h.Inline
		}
	}
	if h.End != 0 {
		j.EndLSN = h.End.String()
	}
	for _, p := range h.RestorePoints {
		j.RestorePoints = append(j.RestorePoints, restorePointJSON{p.Name, p.LSN.String(), jsonTime(p.Time)})
	}
	return j
}
