// Package lint holds the project's rules about its own source: the import
// table of the design, and those house rules that a parser can see. It reads
// the checkout, never changes it, and nothing imports it: its test is the
// linter. A rule that is wrong for a place is changed here, in the open, not
// silenced at the place.
package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const module = "github.com/pgtrove/pgtrove"

// file is one parsed Go file of the project.
type file struct {
	path string // from the module's root, with slashes
	dir  string // the package's directory, "." for the root
	test bool   // name ends in _test.go
	src  []byte
	fset *token.FileSet
	ast  *ast.File
}

// rule looks at all files and returns one line for each offence.
type rule func(files []file) []string

func parse(name string, src []byte) (file, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	return file{path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), src: src, fset: fset, ast: tree}, nil
}

// load parses every Go file below root, leaving out testdata and hidden directories.
func load(root string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_') {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), src)
		files = append(files, f)
		return err
	})
	return files, err
}

// at names the place of a node.
func (f file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(n.Pos()).Line)
}

// imports are the imported packages, by path.
func (f file) imports() map[string]ast.Node {
	out := make(map[string]ast.Node)
	for _, spec := range f.ast.Imports {
		p := strings.Trim(spec.Path.Value, `"`)
		out[p] = spec
	}
	return out
}

// helper says whether a file is part of the tests without being a test: the
// programs and harnesses below test/, and conformance suites.
func (f file) helper() bool {
	return strings.HasPrefix(f.dir, "test/") || f.dir == "storage/storagetest"
}

func formatted(files []file) []string {
	var found []string
	for _, f := range files {
		want, err := format.Source(f.src)
		if err != nil || !bytes.Equal(want, f.src) {
			found = append(found, f.path+": gofmt would change it")
		}
	}
	return found
}
