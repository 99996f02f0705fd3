package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
)

// archiveOff is the value of --archive-mode that changes something.
const archiveOff = "off"

// localFlags are the flags of restore about what is on this host, before and after, and about only looking.
type localFlags struct {
	delta       bool
	strict      bool
	reuse       string
	archiveMode string
	linkAll     bool
	tablespaces string // a directory for all
	dryRun      bool
	list        bool
}

func (l *localFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&l.delta, "delta", false, "go on from what is in the directory: what is right stays, pages that differ are fetched, and what the snapshot has not is removed")
	f.StringVar(&l.reuse, "reuse", "", "take pages that are the right ones from this data `directory` on the same host, rather than fetching them; it is only read")
	f.BoolVar(&l.strict, "strict", false, "with --delta or --reuse: do not believe 64 bits of a page's digest, fetch what cannot be proved by more")
	f.StringVar(&l.archiveMode, "archive-mode", "preserve", "`off` for a copy beside its original, which must not archive; preserve leaves archive_mode as it was")
	f.BoolVar(&l.linkAll, "link-all", false, "make links of what the data directory had links to (pg_wal, certificates), to the same places; otherwise it comes inside")
	f.StringVar(&l.tablespaces, "tablespaces", "", "put all tablespaces that --tablespace does not name into this `directory`, each in one named by its OID")
	f.BoolVar(&l.dryRun, "dry-run", false, "only say what would be fetched, from how many packs, and how long it would take")
	f.BoolVar(&l.list, "list", false, "only list the files of the snapshot and, with --to, where they would go")
}

func (l *localFlags) parse() (err error) {
	switch {
	case l.archiveMode != "preserve" && l.archiveMode != archiveOff:
		return restoreUsage(fmt.Errorf("--archive-mode %q: give preserve or off", l.archiveMode))
	case l.dryRun && l.list:
		return restoreUsage(errors.New("--dry-run and --list: give one"))
	case l.strict && !l.delta && l.reuse == "":
		return restoreUsage(errors.New("--strict is about what is on this host: it needs --delta or --reuse"))
	}
	for _, path := range []*string{&l.reuse, &l.tablespaces} {
		if *path == "" {
			continue
		}
		if *path, err = absolute(*path); err != nil {
			return err
		}
	}
	return nil
}

// ownPlaces are where repository, keys and configuration are, as far as that is on this host.
func (a *app) ownPlaces() (all []string) {
	places := []string{a.keyFileInUse(), a.recoveryKey, a.settings.PasswordFile, a.settings.Config, a.cacheDir()}
	if name, err := a.repositoryName(); err == nil && !isRemote(name) {
		places = append(places, name)
	}
	for _, place := range places {
		if abs, err := absolute(place); err == nil && place != "" {
			all = append(all, abs)
		}
	}
	return all
}

// localJSON is what a restore found on this host.
type localJSON struct {
	Kept       int64 `json:"kept"`
	Copied     int64 `json:"copied"`
	Fetched    int64 `json:"fetched"`
	Removed    int64 `json:"removed"`
	Unarchived int64 `json:"unarchived_wal"`

	Linked   []movedJSON `json:"linked"`
	Replaced []string    `json:"replaced"` // links
}

func localResult(r *restore.Report) localJSON {
	return localJSON{
		Kept: r.Kept, Copied: r.Copied, Fetched: r.Fetched, Removed: r.Removed, Unarchived: r.Unarchived, Linked: movedResult(r.Linked),
		Replaced: append([]string{}, r.Replaced...),
	}
}

// localText says the same to people.
func localText(o restore.Options, r *restore.Report) string {
	text := ""
	if o.Delta || o.Reuse != "" {
		text = fmt.Sprintf("  %s were right already", showBytes(r.Kept))
		if o.Reuse != "" {
			text += fmt.Sprintf(", %s were taken from %s", showBytes(r.Copied), o.Reuse)
		}
		text += fmt.Sprintf(", %s were fetched\n", showBytes(r.Fetched))
	}
	if r.Removed > 0 {
		text += fmt.Sprintf("  removed: %s that the snapshot has not\n", showCount(r.Removed, "file", "files"))
	}
	if r.Unarchived > 0 {
		text += fmt.Sprintf("  moved to %s/%s: WAL that the archive has not, %s; remove it when you are sure that nothing in it is missed\n",
			r.Dir, snapshot.UnarchivedDir, showCount(r.Unarchived, "file", "files"))
	}
	for _, m := range r.Linked {
		text += fmt.Sprintf("  is a link again: %s, to %s\n", m.From, m.To)
	}
	for _, link := range r.Replaced {
		text += fmt.Sprintf("  was a link and is a directory now: %s; what it led to is as it was\n", link)
	}
	return text
}

type entryJSON struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Kind string `json:"kind"`
	Size int64  `json:"size"`
	Mode string `json:"mode"`
	Link string `json:"link,omitempty"`
	To   string `json:"to,omitempty"`
}

func (a *app) listRestore(ctx context.Context, view *repo.View, o restore.Options) error {
	return restore.List(ctx, view, o, func(e *snapshot.Entry, to string) error {
		mode := fmt.Sprintf("%04o", e.Mode)
		if a.settings.JSON {
			return a.out.object(entryJSON{Type: "entry", Path: e.Path, Kind: e.Type.String(), Size: e.Size, Mode: mode, Link: e.Link, To: to})
		}
		line := fmt.Sprintf("%-10s %s %12d  %s", e.Type, mode, e.Size, e.Path)
		if to != "" {
			line += "  to " + to
		}
		if e.Link != "" {
			line += "  (" + e.Link + ")"
		}
		return a.out.print("%s\n", line)
	})
}

type dryRestoreJSON struct {
	Type     string  `json:"type"`
	Snapshot string  `json:"snapshot"`
	Dir      string  `json:"dir"`
	Files    int64   `json:"files"`
	Size     int64   `json:"size"`
	Packs    int64   `json:"packs"`
	Requests int64   `json:"requests"`
	Rate     int64   `json:"rate"` // bytes per second; 0: not measured
	Seconds  float64 `json:"seconds"`
	localJSON
}

// dryRestore says what a restore would do, and how long that would take.
func (a *app) dryRestore(ctx context.Context, view *repo.View, o restore.Options) error {
	s, err := restore.DryRun(ctx, view, o)
	if err != nil {
		return fmt.Errorf("plan the restore of snapshot %s to %s: %w", o.Snapshot.ID, o.To, err)
	}
	rate := int64(0)
	if s.SampleTime > 0 {
		rate = int64(float64(s.SampleBytes) / s.SampleTime.Seconds())
	}
	if a.settings.JSON {
		return a.out.object(dryRestoreJSON{
			Type: "restore-plan", Snapshot: o.Snapshot.ID, Dir: s.Dir, Files: s.Files, Size: s.Bytes, Packs: s.Packs, Requests: s.Reads,
			Rate: rate, Seconds: s.Estimate().Seconds(), localJSON: localResult(&s.Report),
		})
	}
	text := fmt.Sprintf("nothing was changed. A restore of snapshot %s to %s makes %s, %s\n",
		o.Snapshot.ID, s.Dir, showCount(s.Files, "file", "files"), showBytes(s.Bytes))
	if o.Delta || o.Reuse != "" {
		text += fmt.Sprintf("  right already: %s\n", showBytes(s.Kept))
	}
	if o.Reuse != "" {
		text += fmt.Sprintf("  to be taken from %s: %s\n", o.Reuse, showBytes(s.Copied))
	}
	text += fmt.Sprintf("  to be fetched: %s, from %s in %s\n", showBytes(s.Fetched), showCount(s.Packs, "pack", "packs"), showCount(s.Reads, "request", "requests"))
	if s.Removed > 0 {
		text += fmt.Sprintf("  to be removed: %s that the snapshot has not\n", showCount(s.Removed, "file", "files"))
	}
	if s.Unarchived > 0 {
		text += fmt.Sprintf("  to be moved aside: WAL that the archive has not, %s\n", showCount(s.Unarchived, "file", "files"))
	}
	for _, link := range s.Replaced {
		text += fmt.Sprintf("  is a link and will be a directory: %s; what it leads to stays as it is\n", link)
	}
	for _, m := range s.Tablespaces {
		text += fmt.Sprintf("  tablespace: %s goes to %s\n", m.From, m.To)
	}
	if rate > 0 {
		text += fmt.Sprintf("  at %s/s, as measured with %s of it, this takes about %s, and the time for writing what the disk does not take at that rate\n",
			showBytes(rate), showBytes(s.SampleBytes), s.Estimate().Round(time.Second/10))
	}
	return a.out.print("%s", text)
}
