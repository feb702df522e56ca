package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Prometheus is a real one that scrapes one target each second.
type Prometheus struct {
	URL string

	proc *process
}

// StartPrometheus starts the binary on a free port, with everything that it
// writes under dir, and waits until it can be asked. It scrapes /metrics at
// target, a URL, with the token as bearer unless that is empty.
func StartPrometheus(ctx context.Context, binary, dir, target, token string) (*Prometheus, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: foreman\n  static_configs: [{targets: [%q]}]\n", strings.TrimPrefix(target, "http://"))
	if token != "" {
		config += fmt.Sprintf("  authorization: {credentials: %q}\n", token)
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "prometheus"), "--web.listen-address="+addr)
	cmd.Dir = dir
	proc, err := startProcess(cmd, filepath.Join(dir, "prometheus.log"))
	if err != nil {
		return nil, err
	}
	p := &Prometheus{URL: "http://" + addr, proc: proc}
	return p, proc.ready(ctx, func() error {
		resp, err := http.Get(p.URL + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ready: %s", resp.Status)
		}
		return nil
	})
}

// Query returns the value of a PromQL expression of one series.
func (p *Prometheus) Query(ctx context.Context, expression string) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/api/v1/query?query="+url.QueryEscape(expression), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any } // time and value
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%s: %d series %s; want one", expression, len(answer.Data.Result), answer.Error)
	}
	return strconv.ParseFloat(fmt.Sprint(answer.Data.Result[0].Value[1]), 64)
}

// Stop ends it.
func (p *Prometheus) Stop() { p.proc.stop(syscall.SIGTERM, 30*time.Second) }
