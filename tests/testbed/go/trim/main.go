// Command trim takes optional parts out of a copy of an upstream module: for each file it is given import paths to drop, and it
// deletes those imports with everything that only exists because of them. What may go is deliberately narrow, so that what stays
// is upstream's program with fewer plug-ins and not another program:
//
//   - an entry of a map or slice literal that mentions a dropped import
//   - an assignment of one map entry (m["x"] = …) that mentions one
//   - a case of a switch that mentions a dropped declaration or import
//   - the part for a setting that is given (if setting != "" {…}, with no else)
//   - an option (pkg.WithX(…)) passed as the last argument of a call
//   - a top-level declaration named in the plan
//
// Any other mention, an import or declaration that is not there, ends the run with an error: then upstream's text is not what the
// plan was written for.
//
// Usage: trim PLAN.json FOLDER. The plan is {"module": {"file.go": {"imports": […], "declarations": […]}}}; the copy of a module
// is looked for in FOLDER/module.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// cuts is what the plan asks of one file.
type cuts struct {
	Imports      []string `json:"imports"`
	Declarations []string `json:"declarations"`
}

// span is a piece of the file to delete, as byte offsets.
type span struct{ from, to int }

// trimmer holds one file while it is being cut.
type trimmer struct {
	name   string
	source []byte
	files  *token.FileSet
	file   *ast.File
	dead   map[string]bool // local names that are gone: of imports, and of declarations
	spans  []span
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: trim PLAN.json FOLDER"))
	}
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(err)
	}
	plan := map[string]map[string]cuts{}
	if err := json.Unmarshal(text, &plan); err != nil {
		fail(fmt.Errorf("%s: %w", os.Args[1], err))
	}
	for module, files := range plan {
		for name, what := range files {
			if err := trimFile(filepath.Join(os.Args[2], filepath.FromSlash(module), filepath.FromSlash(name)), what); err != nil {
				fail(err)
			}
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "trim:", err)
	os.Exit(1)
}

func trimFile(name string, what cuts) error {
	source, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	t := &trimmer{name: name, source: source, files: token.NewFileSet(), dead: map[string]bool{}}
	if t.file, err = parser.ParseFile(t.files, name, source, parser.SkipObjectResolution); err != nil {
		return err
	}
	for _, path := range what.Imports {
		if err := t.dropImport(path); err != nil {
			return err
		}
	}
	for _, declaration := range what.Declarations {
		if err := t.dropDeclaration(declaration); err != nil {
			return err
		}
	}
	if err := t.dropMentions(); err != nil {
		return err
	}
	return os.WriteFile(name, t.result(), 0o644)
}

func (t *trimmer) offset(p token.Pos) int { return t.files.Position(p).Offset }

// cut marks a node for deletion, with a comma that follows it: entries of literals end in one.
func (t *trimmer) cut(from, to token.Pos) {
	end := t.offset(to)
	if end < len(t.source) && t.source[end] == ',' {
		end++
	}
	t.spans = append(t.spans, span{t.offset(from), end})
}

func (t *trimmer) isCut(n ast.Node) bool {
	at := t.offset(n.Pos())
	for _, s := range t.spans {
		if s.from <= at && at < s.to {
			return true
		}
	}
	return false
}

func (t *trimmer) dropImport(path string) error {
	for _, imported := range t.file.Imports {
		if value, _ := strconv.Unquote(imported.Path.Value); value != path {
			continue
		}
		t.cut(imported.Pos(), imported.End())
		if local := localName(imported, path); local != "_" {
			t.dead[local] = true
		}
		return nil
	}
	return fmt.Errorf("%s does not import %s", t.name, path)
}

// localName is the name an import is used by: the one given to it, or the last part of its path that is not a major version.
func localName(imported *ast.ImportSpec, path string) string {
	if imported.Name != nil {
		return imported.Name.Name
	}
	parts := strings.Split(path, "/")
	last := parts[len(parts)-1]
	if len(parts) > 1 && len(last) > 1 && last[0] == 'v' && strings.Trim(last[1:], "0123456789") == "" {
		last = parts[len(parts)-2]
	}
	return last
}

func (t *trimmer) dropDeclaration(name string) error {
	for _, declaration := range t.file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == name {
				t.cut(d.Pos(), d.End())
				t.dead[name] = true
				return nil
			}
		case *ast.GenDecl:
			if t.dropSpec(d, name) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not declare %s", t.name, name)
}

func (t *trimmer) dropSpec(group *ast.GenDecl, name string) bool {
	for _, s := range group.Specs {
		value, ok := s.(*ast.ValueSpec)
		if !ok || len(value.Names) != 1 || value.Names[0].Name != name {
			continue
		}
		if group.Lparen.IsValid() {
			t.cut(value.Pos(), value.End())
		} else {
			t.cut(group.Pos(), group.End())
		}
		t.dead[name] = true
		return true
	}
	return false
}

// dropMentions deletes, for each use of a dead name that still stands, the entry, assignment or case around it.
func (t *trimmer) dropMentions() error {
	var stack []ast.Node
	var problem error
	ast.Inspect(t.file, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		if problem == nil && t.isMention(n, stack) && !t.isCut(n) {
			problem = t.dropAround(n, stack)
		}
		stack = append(stack, n)
		return true
	})
	return problem
}

// isMention tells a use of a dead name from a field, a selected name or a key that happens to be spelled like it.
func (t *trimmer) isMention(n ast.Node, stack []ast.Node) bool {
	name, ok := n.(*ast.Ident)
	if !ok || !t.dead[name.Name] || len(stack) == 0 {
		return false
	}
	switch parent := stack[len(stack)-1].(type) {
	case *ast.SelectorExpr:
		return parent.X == n
	case *ast.KeyValueExpr:
		return parent.Value == n
	case *ast.ImportSpec, *ast.Field:
		return false
	}
	return true
}

func (t *trimmer) dropAround(n ast.Node, stack []ast.Node) error {
	for i := len(stack) - 1; i >= 0; i-- {
		switch around := stack[i].(type) {
		case *ast.CompositeLit:
			if isContainer(around) && i+1 < len(stack) {
				t.cut(stack[i+1].Pos(), stack[i+1].End())
				return nil
			}
		case *ast.AssignStmt:
			if _, entry := around.Lhs[0].(*ast.IndexExpr); entry && len(around.Lhs) == 1 {
				t.cut(around.Pos(), around.End())
				return nil
			}
		case *ast.CallExpr:
			if last := len(around.Args) - 1; last > 0 && i+1 < len(stack) && isOption(around.Args[last]) && stack[i+1] == around.Args[last] {
				t.cut(around.Args[last-1].End(), around.Args[last].End())
				return nil
			}
		case *ast.IfStmt:
			if isSettingGiven(around) {
				t.cut(around.Pos(), around.End())
				return nil
			}
		case *ast.CaseClause:
			t.cut(around.Pos(), around.End())
			return nil
		}
	}
	return fmt.Errorf("%s: %s is used where it cannot be taken out", t.files.Position(n.Pos()), n.(*ast.Ident).Name)
}

// isOption recognises pkg.WithX(…).
func isOption(argument ast.Expr) bool {
	call, ok := argument.(*ast.CallExpr)
	if !ok {
		return false
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	return ok && strings.HasPrefix(selector.Sel.Name, "With")
}

// isSettingGiven recognises if setting != "" {…}.
func isSettingGiven(statement *ast.IfStmt) bool {
	condition, ok := statement.Cond.(*ast.BinaryExpr)
	if !ok || statement.Else != nil || statement.Init != nil || condition.Op != token.NEQ {
		return false
	}
	empty, ok := condition.Y.(*ast.BasicLit)
	return ok && empty.Value == `""`
}

func isContainer(literal *ast.CompositeLit) bool {
	switch literal.Type.(type) {
	case *ast.MapType, *ast.ArrayType:
		return true
	}
	return false
}

// result is the source without the cuts, which may lie in one another.
func (t *trimmer) result() []byte {
	sort.Slice(t.spans, func(a, b int) bool { return t.spans[a].from < t.spans[b].from })
	var kept []byte
	at := 0
	for _, s := range t.spans {
		if s.from > at {
			kept = append(kept, t.source[at:s.from]...)
		}
		at = max(at, s.to)
	}
	return append(kept, t.source[at:]...)
}
