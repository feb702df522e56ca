package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/api/pod"
	serviceapi "k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// kubernetes returns the objects of a manifest. It refuses fields that the API does not
// know, values that the API server refuses, what it warns of, and pods that do not keep
// the Pod Security Standard "restricted".
func kubernetes(ctx context.Context, file string) (any, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", file, len(objects)+1, err)
		}
		legacyscheme.Scheme.Default(object)
		if err := valid(ctx, object); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, kind.Kind, err)
		}
		objects = append(objects, object)
	}
}

// valid does with an object what the API server does when one is to be created.
func valid(ctx context.Context, object runtime.Object) error {
	internal, err := legacyscheme.Scheme.ConvertToVersion(object.DeepCopyObject(), runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	if o, ok := internal.(metav1.Object); ok && o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault) // as kubectl does
	}
	var problems field.ErrorList
	var warnings []string
	switch o := internal.(type) {
	case *core.Secret:
		problems = validation.ValidateSecret(o)
	case *core.Service:
		problems, warnings = validation.ValidateServiceCreate(o), serviceapi.GetWarningsForService(o, nil)
	case *apps.Deployment:
		template := &o.Spec.Template
		problems = appsvalidation.ValidateDeployment(o, pod.GetValidationOptionsFromPodTemplate(template, nil))
		warnings = pod.GetWarningsForPodTemplate(ctx, field.NewPath("spec", "template"), template, nil)
	default:
		return errors.New("a kind that this program cannot check")
	}
	if err := problems.ToAggregate(); err != nil {
		return err
	}
	if len(warnings) > 0 {
		return fmt.Errorf("warnings: %q", warnings)
	}
	if deployment, ok := object.(*appsv1.Deployment); ok {
		return restricted(deployment)
	}
	return nil
}

// restricted returns an error unless the pods may run in a namespace that enforces the
// Pod Security Standard of this name.
func restricted(deployment *appsv1.Deployment) error {
	standard, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	template := &deployment.Spec.Template
	result := policy.AggregateCheckResults(standard.EvaluatePod(level, &template.ObjectMeta, &template.Spec))
	if !result.Allowed {
		return fmt.Errorf("not restricted: %s", result.ForbiddenDetail())
	}
	return nil
}
