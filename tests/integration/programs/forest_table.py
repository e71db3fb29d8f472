"""The script of the article, written for CodeCarbon: three random forests, and their emissions in a table."""

from codecarbon import EmissionsTracker
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

MODELS = {
    "basic": {"samples": 400, "n_estimators": 200, "max_depth": 5},
    "intermediate": {"samples": 500, "n_estimators": 300, "max_depth": 10},
    "complex": {"samples": 600, "n_estimators": 400, "max_depth": None},
}

results = []
for name, sizes in MODELS.items():
    X, y = make_classification(n_samples=sizes["samples"], n_features=10, random_state=42)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=42)
    tracker = EmissionsTracker(project_name=name)
    tracker.start()
    model = RandomForestClassifier(sizes["n_estimators"], max_depth=sizes["max_depth"], random_state=42)
    model.fit(X_train, y_train)
    accuracy = accuracy_score(y_test, model.predict(X_test))
    emissions = tracker.stop()
    results.append((name, accuracy, emissions, tracker.final_emissions_data.energy_consumed))

print(f"{'model':14}{'accuracy':>10}{'kg CO2eq':>14}{'kWh':>14}")
for name, accuracy, emissions, energy in results:
    print(f"{name:14}{accuracy:>10.3f}{emissions:>14.4e}{energy:>14.4e}")
