package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
)

// mend gives the damaged packs up, if that was asked for, and finds out what is lost by it.
func (v *verifyRun) mend(ctx context.Context) error {
	if !v.o.repair || v.report == nil {
		return nil
	}
	var packs []string
	for i := range v.report.Damage {
		if key := v.report.Damage[i].Object; strings.HasPrefix(key, "packs/") {
			packs = append(packs, key)
		}
	}
	if err := v.view.Reload(ctx); err != nil {
		return err
	}
	// A pack that was given up may have been copied back since: then what stands in it alone is taken out of it.
	packs = append(packs, v.view.GivenUp()...)
	if err := v.lookAtUnnamed(ctx); err != nil {
		return err
	}
	packs = append(packs, v.unreadable...)
	if len(v.report.Damage) > 0 {
		// What a snapshot needs whose listing is damaged is not known. A pack that is gone is given up all the same, or the next backup would refer to it.
		missing, err := v.view.MissingPacks(ctx)
		if err != nil {
			return err
		}
		packs = append(packs, missing...)
	}
	if len(v.report.Damage)+len(packs) == 0 {
		return nil
	}
	slices.Sort(packs)
	packs = slices.Compact(packs)
	host, _ := os.Hostname() // for people
	var err error
	if v.repaired, err = v.repo.Repair(ctx, v.view, repo.RepairOptions{Host: host, Now: time.Now, Packs: packs}); err != nil {
		return err
	}
	if err := v.view.Reload(ctx); err != nil {
		return err
	}
	// What snapshots still find in these packs stands nowhere else; only there something can be lost, all else was verified.
	o := v.options()
	o.ReadData, o.AllFiles = true, true
	o.Chosen = func(key string) bool { return slices.Contains(packs, key) }
	after, err := restore.Verify(ctx, v.view, v.repo, o)
	if err != nil {
		return fmt.Errorf("find out what is lost: %w", err)
	}
	for i := range after.Damage {
		v.lost = append(v.lost, damageOf("lost", &after.Damage[i]))
	}
	v.listHidden()
	return nil
}

// listHidden adds what nobody can say of yet who needs it: as long as a listing is damaged, that is every chunk that opened nowhere. A pack that
// does not even say what it held may have held anything.
func (v *verifyRun) listHidden() {
	for _, d := range v.lost {
		v.hidden = v.hidden || !strings.HasPrefix(d.Object, "packs/") && !strings.HasPrefix(d.Object, "chunk ")
	}
	if !v.hidden {
		return
	}
	for _, l := range v.repaired.Lost {
		ids := make([]string, 0, len(l.Chunks))
		for _, id := range l.Chunks {
			ids = append(ids, id.String())
		}
		if i := slices.IndexFunc(v.lost, func(d damageJSON) bool { return d.Object == l.Key }); i >= 0 {
			v.lost[i].Chunks = ids
			continue
		}
		v.lost = append(v.lost, damageJSON{Type: "lost", Object: l.Key, Chunks: ids,
			Error: fmt.Sprintf("%s of it cannot be opened anywhere, and nobody can say which files need them as long as a listing is damaged", showCount(int64(len(ids)), "chunk", "chunks"))})
	}
	for _, key := range v.repaired.Blind {
		if !slices.ContainsFunc(v.lost, func(d damageJSON) bool { return d.Object == key }) {
			v.lost = append(v.lost, damageJSON{Type: "lost", Object: key, Error: "nothing says what it held"})
		}
	}
}

// lookAtUnnamed looks into the packs that the index does not name: which do not say what they hold, and whether a new index would have what this
// one lacks.
func (v *verifyRun) lookAtUnnamed(ctx context.Context) error {
	if v.looked {
		return nil
	}
	v.looked = true
	missing, listing := map[string]bool{}, false // chunks, and what may be metadata
	for i := range v.damage {
		if d := &v.damage[i]; d.unnamed {
			missing[d.Object] = true
			listing = listing || !strings.HasPrefix(d.Object, "chunk ")
		}
	}
	keys, err := v.view.UnnamedPacks(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		dir, _, err := v.repo.PackEnd(ctx, key)
		switch {
		case err != nil && errors.Is(err, repo.ErrDamaged):
			v.unreadable = append(v.unreadable, key)
			continue
		case err != nil && isDamage(err): // it went meanwhile
			continue
		case err != nil:
			return err
		}
		v.rebuilds = v.rebuilds || listing && dir.Kind == pack.Meta
		for i := range dir.Entries {
			v.rebuilds = v.rebuilds || missing["chunk "+dir.Entries[i].ID.String()]
		}
	}
	return nil
}

type repairJSON struct {
	Type   string   `json:"type"`
	Packs  []string `json:"packs"` // given up now
	Known  []string `json:"known"` // given up before
	Chunks int      `json:"copied_chunks"`
	Bytes  int64    `json:"copied_bytes"`
	Lost   int      `json:"lost"` // objects of which something is lost
}

// showRepair says what was done, and all that is lost.
func (v *verifyRun) showRepair() error {
	r := v.repaired
	if r == nil {
		return nil
	}
	for i := range v.lost {
		if err := v.showDamage(&v.lost[i]); err != nil {
			return err
		}
	}
	if v.settings.JSON {
		return v.out.object(repairJSON{"repair", append([]string{}, r.Marked...), append([]string{}, r.Known...), r.Copied.Chunks, r.Copied.Bytes, len(v.lost)})
	}
	if n := len(r.Marked); n > 0 {
		v.out.line("", "repaired: %s given up, and what is sound was copied: %s of %s",
			showCount(int64(n), "damaged pack is", "damaged packs are"), showCount(int64(r.Copied.Chunks), "chunk", "chunks"), showBytes(r.Copied.Bytes))
	}
	if n := len(r.Known); n > 0 {
		v.out.line("", "%s given up before", showCount(int64(n), "damaged pack was", "damaged packs were"))
	}
	if len(v.lost) == 0 {
		v.out.line("", "nothing is lost")
	}
	return nil
}

// repairHint says what is to be done after a repair.
func (v *verifyRun) repairHint() string {
	if len(v.lost) == 0 {
		return "`pgtrove prune` removes the damaged packs, in two runs"
	}
	text := "take a backup: it stores again what the cluster still has; then `pgtrove verify` says what is still lost, and as long as it is, prune deletes nothing. "
	if v.hidden && len(v.repaired.Marked) > 0 {
		return text + "What is to be forgotten is known only then, since listings are damaged too"
	}
	return text + fmt.Sprintf("What the cluster has no more is given up with `pgtrove forget %s`", strings.Join(concernedBy(v.lost), " "))
}

// givenUpHint says what is to be done where a repair would find nothing more: all of it was given up by an earlier one, or no pack has it.
func (v *verifyRun) givenUpHint() string {
	return fmt.Sprintf("take a backup, unless you did since this was found: it stores again what the cluster still has. What is named after it is lost; "+
		"it is given up with `pgtrove forget %s`, and as long as it is there, prune deletes nothing. "+
		"If an object was copied back since, `pgtrove verify --repair` takes out of it what is needed", strings.Join(concernedBy(v.damage), " "))
}
