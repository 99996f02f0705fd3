package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
)

func newKeyCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Say who may open the repository, and what each key may do",
		Long: `Say who may open the repository, and what each key may do. Each host gets a key of its own, of one of three roles:

  owner    opens everything, and alone makes, removes and changes keys
  writer   backs up, deduplicates, archives WAL, lists and checks, and where the storage lets it also forgets and prunes. It opens
           no backup and no WAL: who steals its host reads nothing of them
  standby  is a writer that opens WAL as well, as restore_command needs it

docs/security.md says what each of them can do in the wrong hands, and docs/runbooks/lost-key.md what to do about it.`,
	}
	group(c)
	c.AddCommand(newKeyListCommand(a), newKeyAddCommand(a), newKeyRemoveCommand(a), newKeyRotateCommand(a), newKeyExportCommand(a))
	return c
}

// openAsOwner opens the repository for a command that changes keys; what is that command. Errors: keys.ErrRole where the key in use is no owner's;
// repo.ErrUnsigned.
func (a *app) openAsOwner(ctx context.Context, what string) (*repo.Repo, error) {
	r, err := a.openRepository(ctx)
	if err != nil {
		return nil, err
	}
	if r.Role() != keys.Owner {
		return nil, a.lacksRole(r, what, "only an owner may make, remove and change keys",
			"run it where an owner's identity is, and name that with --key-file FILE")
	}
	if r.Root() == nil {
		return nil, fmt.Errorf("%s: %w", what, repo.ErrUnsigned)
	}
	return r, nil
}

// lacksRole is the error of a command that the key in use may not do.
func (a *app) lacksRole(r *repo.Repo, what, why, hint string) error {
	return withHint(classified{fmt.Errorf("%s: the key in use%s is a %s's, and %s", what, nameInUse(r), r.Role(), why), keys.ErrRole}, "%s", hint)
}

// nameInUse is the name of the key that opened the repository, for messages; "" where it has none.
func nameInUse(r *repo.Repo) string {
	if c := r.Certificate(); c != nil && c.Name != "" {
		return fmt.Sprintf(" (%s)", c.Name)
	}
	return ""
}

// findKey returns the key that a person means, by its name, its ID, or the beginning of that.
func findKey(all []repo.Key, name string) (repo.Key, error) {
	var found []repo.Key
	for _, k := range all {
		if k.Name == name || k.ID == name {
			return k, nil
		}
		if len(name) >= leastOfID && strings.HasPrefix(k.ID, name) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return repo.Key{}, withHint(classified{fmt.Errorf("find key %s: there is none of this name or ID", name), repo.ErrNoKey}, "`pgtrove key list` lists them")
	case 1:
		return found[0], nil
	}
	return repo.Key{}, usageError{err: fmt.Errorf("find key %s: it fits several", name), hint: "give more of the ID"}
}

// leastOfID is how much of an ID it takes at least to mean a key.
const leastOfID = 4

// keyJSON is a key as key list, key add and key rotate print it.
type keyJSON struct {
	Type     string    `json:"type"` // "key"
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Role     keys.Role `json:"role"`
	Group    string    `json:"group"`    // of hosts that trust each other, and share chunks
	Clusters []string  `json:"clusters"` // that it may write to; "*": all
	Kind     string    `json:"kind"`     // of what opens it: identity, ssh, plugin:NAME, passphrase
	Created  jsonTime  `json:"created"`
	Current  bool      `json:"current"`            // it opened the repository just now
	Removing bool      `json:"removing,omitempty"` // a removal has begun, and not come to its end
	KeyFile  string    `json:"key_file,omitempty"`
	Error    string    `json:"error,omitempty"` // why it is not to be relied on
}

func keyResult(k repo.Key) keyJSON {
	j := keyJSON{
		Type: "key", ID: k.ID, Name: k.Name, Role: k.Role, Group: keys.ShowGroup(k.Group), Clusters: append([]string{}, k.Clusters...), Kind: k.Kind,
		Created: jsonTime(k.Created), Current: k.Current, Removing: k.Removing,
	}
	if k.Err != nil {
		j.Error = k.Err.Error()
	}
	return j
}

// mainGroup is how the group that init made is shown.
const mainGroup = "main"

// groupNamed is the group that a person means.
func groupNamed(shown string) string {
	if shown == mainGroup {
		return ""
	}
	return shown
}

// describeKey says of a key what it may do, for people.
func describeKey(k repo.Key) string {
	of := "of all clusters"
	switch {
	case len(k.Clusters) == 1 && k.Clusters[0] != keys.AnyCluster:
		of = "of cluster " + k.Clusters[0]
	case len(k.Clusters) > 1 && !slices.Contains(k.Clusters, keys.AnyCluster):
		of = "of clusters " + strings.Join(k.Clusters, ", ")
	}
	if k.Group != "" {
		of += ", group " + k.Group
	}
	return fmt.Sprintf("%s %s, %s", k.Role, k.Name, of)
}
