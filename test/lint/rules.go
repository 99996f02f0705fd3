package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// noInit: the wiring is one readable function, nothing happens at import.
func noInit(files []file) []string {
	var found []string
	for _, f := range files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, f.at(fn)+": func init")
			}
		}
	}
	return found
}

// noGlobals: package variables are errors, compile-time assertions, or what
// allowedGlobals names with its reason.
func noGlobals(files []file) []string {
	allowed := allowedGlobals()
	var found []string
	for _, f := range files {
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.VAR {
				continue
			}
			for _, spec := range decl.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					n := name.Name
					if n == "_" || strings.HasPrefix(n, "Err") || strings.HasPrefix(n, "err") || allowed[f.dir+"."+n] != "" {
						continue
					}
					found = append(found, fmt.Sprintf("%s: package variable %s", f.at(name), n))
				}
			}
		}
	}
	return found
}

// allowedGlobals are package variables that nobody assigns to, and why they
// cannot be constants.
func allowedGlobals() map[string]string {
	return map[string]string{
		"test/pgtest.built":  "the binary is built once per test program",
		"snapshot.zeroPage":  "a constant; Go has no constant arrays",
		"index.counterKey":   "a constant; Go has no constant slices",
		"repo.defaultParams": "a constant; Go has no constant structs",
	}
}

// packageComments: every package says what it is, in one of its files.
func packageComments(files []file) []string {
	said, first := map[string]bool{}, map[string]file{}
	for _, f := range files {
		if f.test {
			continue
		}
		if _, ok := first[f.dir]; !ok {
			first[f.dir] = f
		}
		if doc := f.ast.Doc.Text(); strings.HasPrefix(doc, "Package "+f.ast.Name.Name+" ") ||
			f.ast.Name.Name == "main" && strings.HasPrefix(doc, "Command ") {
			said[f.dir] = true
		}
	}
	var found []string
	for dir, f := range first {
		if !said[dir] {
			found = append(found, fmt.Sprintf("%s: package %s has no comment that begins with its name", f.path, dir))
		}
	}
	return found
}

// exportedAreDocumented: what others may call says what it promises.
func exportedAreDocumented(files []file) []string {
	var found []string
	miss := func(f file, n ast.Node, name string) {
		found = append(found, fmt.Sprintf("%s: exported %s has no comment", f.at(n), name))
	}
	for _, f := range files {
		if f.test || f.ast.Name.Name == "main" {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && receiverIsExported(d) && !obvious(d) {
					miss(f, d, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if s, ok := spec.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						miss(f, s, s.Name.Name)
					}
				}
			}
		}
	}
	return found
}

// obvious methods do what the interface of the standard library says.
func obvious(fn *ast.FuncDecl) bool {
	switch fn.Name.Name {
	case "Error", "Unwrap", "Is", "String", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText":
		return fn.Recv != nil
	}
	return false
}

func receiverIsExported(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	t := fn.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// contexts: first where something waits on the world, and never in a struct.
func contexts(files []file) []string {
	var found []string
	isContext := func(e ast.Expr) bool {
		s, ok := e.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := s.X.(*ast.Ident)
		return ok && x.Name == "context" && s.Sel.Name == "Context"
	}
	for _, f := range files {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, field := range n.Fields.List {
					if isContext(field.Type) {
						found = append(found, f.at(field)+": a context in a struct")
					}
				}
			case *ast.FuncType:
				for i, param := range n.Params.List {
					if isContext(param.Type) && i > 0 && !takesTesting(n) {
						found = append(found, f.at(param)+": the context is not the first parameter")
					}
				}
			}
			return true
		})
	}
	return found
}

// takesTesting: helpers of tests have the test first.
func takesTesting(fn *ast.FuncType) bool {
	t := fn.Params.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	s, ok := t.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "testing"
}

// onlyCmdSpeaks: cores return errors and emit events; only cmd prints, logs
// and exits. The programs below test/ are commands too.
func onlyCmdSpeaks(files []file) []string {
	var found []string
	for _, f := range files {
		if f.test || f.ast.Name.Name == "main" || strings.HasPrefix(f.dir, "test/") {
			continue
		}
		for _, p := range []string{"log", "log/slog"} {
			if node, ok := f.imports()[p]; ok {
				found = append(found, fmt.Sprintf("%s: imports %s", f.at(node), p))
			}
		}
		for _, call := range calls(f, "os.Exit", "fmt.Print", "fmt.Printf", "fmt.Println") {
			found = append(found, fmt.Sprintf("%s: only cmd prints and exits", f.at(call)))
		}
		for _, sel := range selectors(f, "os.Stdout", "os.Stderr") {
			found = append(found, fmt.Sprintf("%s: only cmd prints", f.at(sel)))
		}
	}
	return found
}

// testingStaysInTests: the product does not link the testing package.
func testingStaysInTests(files []file) []string {
	var found []string
	for _, f := range files {
		if f.test || f.helper() {
			continue
		}
		if node, ok := f.imports()["testing"]; ok {
			found = append(found, f.at(node)+": imports testing")
		}
	}
	return found
}

// noSkips: a test that cannot run fails and says what is missing.
func noSkips(files []file) []string {
	var found []string
	for _, f := range files {
		if !f.test && !f.helper() {
			continue
		}
		for _, call := range calls(f, "t.Skip", "t.Skipf", "t.SkipNow", "b.Skip", "b.Skipf", "b.SkipNow", "testing.Short") {
			found = append(found, f.at(call)+": a skipped test")
		}
	}
	return found
}

// smallInterfaces: the consumer declares what it needs, four methods at most.
func smallInterfaces(files []file) []string {
	var found []string
	for _, f := range files {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if it, ok := n.(*ast.InterfaceType); ok && it.Methods.NumFields() > 4 {
				found = append(found, fmt.Sprintf("%s: an interface of %d methods", f.at(it), it.Methods.NumFields()))
			}
			return true
		})
	}
	return found
}

// lengths: a file past 500 lines or a function past 60 wants a reason, in
// longOnes. Tests are looser: a table or a story is easier to read in one piece.
func lengths(files []file) []string {
	allowed := longOnes()
	var found []string
	for _, f := range files {
		if n := strings.Count(string(f.src), "\n"); n > 500 && allowed[f.path] == "" {
			found = append(found, fmt.Sprintf("%s: %d lines", f.path, n))
		}
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || allowed[f.dir+"."+fn.Name.Name] != "" {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if n > 60 {
				found = append(found, fmt.Sprintf("%s: %s has %d lines", f.at(fn), fn.Name.Name, n))
			}
		}
	}
	return found
}

// longOnes are the files ("dir/file.go") and functions ("dir.name") that are
// longer than the rule says, and why.
func longOnes() map[string]string {
	return map[string]string{}
}

// calls finds calls of the named functions ("fmt.Println").
func calls(f file, names ...string) []ast.Node {
	var out []ast.Node
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && named(call.Fun, names) {
			out = append(out, call)
		}
		return true
	})
	return out
}

// selectors finds uses of the named members ("os.Stdout").
func selectors(f file, names ...string) []ast.Node {
	var out []ast.Node
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if e, ok := n.(*ast.SelectorExpr); ok && named(e, names) {
			out = append(out, e)
		}
		return true
	})
	return out
}

func named(e ast.Expr, names []string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return false
	}
	for _, n := range names {
		if n == x.Name+"."+s.Sel.Name {
			return true
		}
	}
	return false
}
