package lint

import (
	"fmt"
	"strings"
)

type column int

const (
	shared  column = iota // vocabulary: either column may import it
	cluster               // knows clusters and time, but no bucket
	store                 // knows bytes and secrets, but no PostgreSQL
	roof                  // composes both
)

type place struct {
	level  int
	column column
}

// table is the package plan of docs/design.md. A package stands for those
// below it too (storage/fs is storage).
func table() map[string]place {
	return map[string]place{
		"cmd/pgtrove":      {5, roof},
		"repo":             {4, store},
		"pgsource":         {3, cluster},
		"walsource":        {3, cluster},
		"walreceiver":      {3, cluster},
		"restore":          {3, cluster},
		"gc":               {3, cluster},
		"index":            {3, store},
		"snapshot":         {2, cluster},
		"walarchive":       {2, cluster},
		"walahead":         {2, cluster},
		"pack":             {2, shared},
		"keys":             {2, store},
		"storage":          {2, store},
		"internal/pg":      {1, cluster},
		"internal/durable": {1, shared},
		"chunk":            {1, shared},
	}
}

// family is the entry of the table that a directory belongs to.
func family(dir string) (string, place, bool) {
	t := table()
	for name := dir; name != "."; {
		if p, ok := t[name]; ok {
			return name, p, true
		}
		cut := strings.LastIndexByte(name, '/')
		if cut < 0 {
			break
		}
		name = name[:cut]
	}
	return "", place{}, false
}

// importsGoDown: a package imports only packages of lower levels (or of its
// own family), neither column imports the other, and no product code imports
// the tests. Tests of a package may import what they like.
func importsGoDown(files []file) []string {
	var found []string
	for _, f := range files {
		if f.test || strings.HasPrefix(f.dir, "test/") {
			continue
		}
		from, p, ok := family(f.dir)
		if !ok {
			found = append(found, fmt.Sprintf("%s: package %s is not in the table of docs/design.md and test/lint", f.path, f.dir))
			continue
		}
		for imported, node := range f.imports() {
			dir, inside := strings.CutPrefix(imported, module+"/")
			if !inside {
				continue
			}
			if why := forbidden(from, p, dir); why != "" {
				found = append(found, fmt.Sprintf("%s: %s imports %s: %s", f.at(node), f.dir, dir, why))
			}
		}
	}
	return found
}

func forbidden(from string, p place, dir string) string {
	if strings.HasPrefix(dir, "test/") {
		return "the product never imports its tests"
	}
	to, q, ok := family(dir)
	switch {
	case !ok:
		return "it is not in the table"
	case to == from:
		return ""
	case q.level >= p.level:
		return fmt.Sprintf("level %d may only import lower levels, it is on level %d", p.level, q.level)
	case p.column == cluster && q.column == store:
		return "the PostgreSQL column does not know the store"
	case p.column == store && q.column == cluster:
		return "the store column does not know PostgreSQL"
	case p.column == shared && q.column != shared:
		return "vocabulary of both columns imports neither"
	}
	return ""
}

// noCatchAllPackages: one package, one noun.
func noCatchAllPackages(files []file) []string {
	var found []string
	for _, f := range files {
		switch f.ast.Name.Name {
		case "util", "utils", "common", "types", "errors", "manager", "helper", "helpers", "misc", "base", "shared":
			found = append(found, fmt.Sprintf("%s: a package named %s says nothing", f.path, f.ast.Name.Name))
		}
	}
	return found
}
