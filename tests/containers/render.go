// Renders a Helm chart's templates without Helm: render CHART VALUES RELEASE NAMESPACE.
//
// May touch: the chart's files, the values (a JSON file), standard output.
// Must never: know more than Helm does; what Helm adds to sprig and is not here ends it.
//
// Helm itself is in no package of Debian, PyPI or npm. It is Go's text/template with sprig, and
// the functions that are added here.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(path string, to interface{}) {
	text, err := os.ReadFile(path)
	check(err)
	check(yaml.Unmarshal(text, to))
}

// merge lays values over the defaults, table by table, as Helm does.
func merge(under, over map[string]interface{}) map[string]interface{} {
	for key, value := range over {
		mine, isTable := under[key].(map[string]interface{})
		its, alsoTable := value.(map[string]interface{})
		if isTable && alsoTable {
			under[key] = merge(mine, its)
		} else if value == nil {
			delete(under, key)
		} else {
			under[key] = value
		}
	}
	return under
}

func main() {
	folder := os.Args[1]
	values, given, chart := map[string]interface{}{}, map[string]interface{}{}, map[string]interface{}{}
	read(filepath.Join(folder, "values.yaml"), &values)
	read(os.Args[2], &given)
	read(filepath.Join(folder, "Chart.yaml"), &chart)
	set := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env") // Helm takes these away
	delete(functions, "expandenv")
	functions["include"] = func(name string, data interface{}) (string, error) {
		var text strings.Builder
		err := set.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	functions["toYaml"] = func(value interface{}) string {
		text, err := yaml.Marshal(value)
		check(err)
		return strings.TrimSuffix(string(text), "\n")
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, errors.New(message)
		}
		return value, nil
	}
	set.Funcs(functions)
	files, err := filepath.Glob(filepath.Join(folder, "templates", "*"))
	check(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		check(err)
		_, err = set.New(filepath.Base(file)).Parse(string(text))
		check(err)
	}
	made := map[string]interface{}{}
	made["values.yaml"] = merge(values, given)
	data := map[string]interface{}{
		"Values":  made["values.yaml"],
		"Chart":   map[string]interface{}{"Name": chart["name"], "Version": chart["version"], "AppVersion": chart["appVersion"]},
		"Release": map[string]interface{}{"Name": os.Args[3], "Namespace": os.Args[4], "Service": "Helm"},
	}
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var text strings.Builder
		check(set.ExecuteTemplate(&text, name, data))
		var manifest interface{} = text.String()
		if strings.HasSuffix(name, ".yaml") {
			manifest = nil // of a template that gives nothing
			check(yaml.Unmarshal([]byte(text.String()), &manifest))
		}
		made[name] = manifest
	}
	check(json.NewEncoder(os.Stdout).Encode(made))
}
