// SPDX-License-Identifier: Apache-2.0

package vectors

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder is spec/vectors of the repository. A module that was fetched by itself has none.
const folder = "../../../../spec/vectors"

// Every vector of the specification that concerns a client gives what it says: outputs, or the code of the refusal.
func TestVectors(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(folder, "*.json"))
	if len(files) == 0 {
		t.Skip("spec/vectors is not here: this is the module alone, without its repository")
	}
	seen := map[string]int{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			outcome, err := Run(content)
			if err != nil {
				t.Fatal(err)
			}
			seen[outcome.Kind]++
			if outcome.Skipped != "" && !serverOnly[outcome.Kind] {
				t.Fatalf("skipped: %s", outcome.Skipped)
			}
			if outcome.Skipped == "" && !outcome.Holds() {
				t.Errorf("expected %s, got %s %s", outcome.Expect, outcome.Result, outcome.Differs)
			}
		})
	}
	for kind := range kinds {
		if seen[kind] == 0 {
			t.Errorf("no vector of kind %s ran", kind)
		}
	}
}

// A runner that passes everything would be worthless: altered outputs and codes are noticed.
func TestVectorsCanFail(t *testing.T) {
	for file, change := range map[string][2]string{
		"jwk_basic":          {`"thumbprint": "`, `"thumbprint": "A`},
		"sealed_one_byte":    {`"sha256": "`, `"sha256": "0`},
		"jws_wrong_typ":      {`"expect": "signature_invalid"`, `"expect": "ok"`},
		"grant_read":         {`"size": 123456`, `"size": 123457`},
		"problem_busy":       {`"advice": "retry"`, `"advice": "stop"`},
		"report_data_basic":  {`"id": "`, `"id": "A`},
		"sealed_tag_altered": {`"expect": "integrity"`, `"expect": "truncated"`},
	} {
		content, err := os.ReadFile(filepath.Join(folder, file+".json"))
		if err != nil {
			t.Skip("spec/vectors is not here")
		}
		altered := strings.Replace(string(content), change[0], change[1], 1)
		if altered == string(content) {
			t.Errorf("%s: nothing was altered", file)
		}
		outcome, err := Run([]byte(altered))
		if err == nil && outcome.Holds() {
			t.Errorf("%s: passes though it was altered", file)
		}
	}
}
