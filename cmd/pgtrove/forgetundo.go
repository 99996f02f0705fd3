package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/repo"
)

// undone is what a second look took back, because somebody else forgot at the same time what it counted on.
type undone struct {
	why    []string       // of each cluster
	asked  int            // requests that were to be taken back
	late   repo.TakenBack // of all
	failed error
}

// takeBack takes back what was asked for in a cluster: what was made, and what was narrowed, by ID.
func (u *undone) takeBack(ctx context.Context, r *repo.Repo, why string, made []repo.Commit, narrowed []string) {
	var forgotten []string
	for _, commit := range made {
		forgotten = append(forgotten, commit.ID)
	}
	u.asked += len(forgotten) + len(narrowed)
	late, err := r.TakeBack(ctx, forgotten, narrowed)
	u.why, u.failed = append(u.why, why), errors.Join(u.failed, err)
	u.late.Removed, u.late.Left = append(u.late.Removed, late.Removed...), append(u.late.Left, late.Left...)
	u.late.Narrowed = append(u.late.Narrowed, late.Narrowed...)
}

// err says what was taken back, and what not; nil if nothing had to be.
func (u *undone) err() error {
	if len(u.why) == 0 {
		return nil
	}
	text := fmt.Sprintf("forget: somebody else has forgotten snapshots at the same time: %s; what was asked for here ", strings.Join(u.why, ", and "))
	but := ", but for"
	if len(u.late.Removed)+len(u.late.Left)+len(u.late.Narrowed) < u.asked {
		text += "is taken back"
	} else {
		text += "could not be taken back"
		but = ":"
	}
	for _, late := range []struct {
		what string
		ids  []string
	}{
		{"what a prune has removed already", u.late.Removed},
		{"what a prune has narrowed for good already", u.late.Narrowed},
		{"what is forgotten all the same", u.late.Left},
	} {
		if len(late.ids) > 0 {
			text += fmt.Sprintf("%s %s: %s", but, late.what, strings.Join(late.ids, ", "))
			but = ";"
		}
	}
	hint := "`pgtrove snapshots` shows what is left; let one host forget"
	for i, id := range slices.Concat(u.late.Removed, u.late.Left) {
		if i == 0 {
			hint = "what brings a snapshot back, as long as no further prune begins:"
		}
		hint += fmt.Sprintf(" `pgtrove pin %s`", id)
	}
	if u.failed != nil {
		return withHint(refused("%s; %w", text, u.failed), "%s", hint)
	}
	return withHint(refused("%s", text), "%s", hint)
}
